//! `cargo lab images`: the two images of a real cluster, built here and pushed to a registry of the user's. Needs no lab.

use crate::host::Paths;
use crate::images::Registry;
use crate::progress::step;
use crate::{install, packages};
use anyhow::{Result, ensure};

/// Builds, pushes, and prints what helm must be told. `prefix`: `registry.example/team`; `tag`: the chart's version without one, so that
/// the chart needs none either.
///
/// # Errors
/// The prefix names no registry, a build fails, or the registry refuses: buildah's words say why.
pub async fn publish(paths: &Paths, prefix: &str, tag: Option<&str>, tls: bool) -> Result<()> {
    let prefix = prefix.trim_end_matches('/');
    ensure!(
        !prefix.is_empty() && !prefix.contains("://") && !prefix.contains(char::is_whitespace),
        "{prefix:?} is no registry: name it as images do, such as registry.example/team"
    );
    step("programs", packages::of(&packages::IMAGES)).await?;
    step("binaries", install::build(paths)).await?;
    let storage = tempfile::tempdir()?;
    let registry = Registry { prefix: prefix.to_owned(), tls, storage: storage.path().to_owned(), logins: true };
    let (programs, folder) = (install::binaries(paths)?, paths.repository.join("images"));
    let tag = tag.unwrap_or(env!("CARGO_PKG_VERSION"));
    let mut options = vec![];
    for (name, option) in [("operator", "image"), ("transfer", "transferImage")] {
        let program = programs.join(format!("gpujob-{name}"));
        let reference = step(&format!("{name} image"), registry.push_program(&folder, name, &program, Some(tag))).await?;
        let (repository, _) = reference.rsplit_once(':').unwrap_or((&reference, tag));
        options.push(format!("--set {option}.repository={repository}"));
        if tag != env!("CARGO_PKG_VERSION") {
            options.push(format!("--set {option}.tag={tag}"));
        }
    }
    println!("{}", options.join(" "));
    Ok(())
}
