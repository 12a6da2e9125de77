//! Which files are results: `include` and `exclude`.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::Fault;

/// What `include` names (everything, when it is empty) without what `exclude` names.
///
/// Names are those below the results folder. `*` and `?` stay within a folder, `**` does not; `[ab]` and `{a,b}` are
/// alternatives. A pattern that ends with a slash means everything below that folder.
pub(super) struct Globs {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Globs {
    /// # Errors
    /// `InvalidSpec` for a pattern that cannot be read.
    pub(super) fn new(include: &[String], exclude: &[String]) -> Result<Globs, Fault> {
        let include = if include.is_empty() { None } else { Some(set("include", include)?) };
        Ok(Globs { include, exclude: set("exclude", exclude)? })
    }

    /// Takes everything.
    #[cfg(test)]
    pub(super) fn all() -> Globs {
        Globs { include: None, exclude: GlobSet::empty() }
    }

    /// Whether a file of that name is a result.
    pub(super) fn take(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(name)) && !self.exclude.is_match(name)
    }
}

fn set(field: &str, patterns: &[String]) -> Result<GlobSet, Fault> {
    let bad = |e: globset::Error| Fault::invalid(format!("results.{field}: {e}; correct the pattern"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let folder = pattern.strip_suffix('/').map(|folder| format!("{folder}/**"));
        let text = folder.as_deref().unwrap_or(pattern);
        set.add(GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build().map_err(bad)?);
    }
    set.build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(include: &[&str], exclude: &[&str], name: &str) -> bool {
        let owned = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        Globs::new(&owned(include), &owned(exclude)).expect("patterns").take(name)
    }

    #[test]
    fn what_they_take() {
        assert!(taken(&[], &[], "any/thing"));
        assert!(taken(&["*.bin"], &[], "model.bin") && !taken(&["*.bin"], &[], "deep/model.bin"));
        assert!(taken(&["**/*.bin"], &[], "deep/er/model.bin") && taken(&["**/*.bin"], &[], "model.bin"));
        assert!(taken(&["out/"], &[], "out/a/b") && !taken(&["out/"], &[], "outer/a"));
        assert!(!taken(&["out/"], &["**/*.tmp"], "out/a/b.tmp"));
        assert!(taken(&["*.{json,csv}"], &[], "a b+ü.csv"));
        assert!(!taken(&[], &["tmp/"], "tmp/x") && taken(&[], &["tmp/"], "tmp2/x"));
    }

    #[test]
    fn a_bad_pattern_is_said() {
        let fault = Globs::new(&["a[".into()], &[]).err().expect("refused");
        assert_eq!(fault.reason, crate::receipt::reason::INVALID_SPEC);
        assert!(fault.message.contains("results.include"), "{fault}");
    }
}
