//! What this process knows of launch templates: their content, so that one that is gone can be made again for a launch that
//! names it; which of them launches can see; and which nobody needs any more.
//!
//! All of it is in memory. After a restart it is learned again from preparing the pools; what is forgotten costs nothing.

use crate::client::Clients;
use crate::render::FleetRequest;
use crate::template::{self, Content, Shown, TemplateRef};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An unresolved launch is replayed for an hour: for so long a template that pools have left behind must stay.
const KEEP: Duration = Duration::from_secs(3600);
/// A template that prefetches serves the image's next job too, tomorrow's for example.
const KEEP_VARIANT: Duration = Duration::from_secs(24 * 3600);

struct Entry {
    content: Content,
    /// Whether EC2 has shown it: launches find it.
    visible: bool,
}

/// Templates by name, with their content.
#[derive(Default)]
pub(crate) struct Known(Mutex<BTreeMap<String, Entry>>);

impl Known {
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was made, and may not be visible to launches yet.
    pub(crate) fn made(&self, content: Content) {
        self.held().entry(content.name()).or_insert(Entry { content, visible: false });
    }

    /// EC2 shows it.
    pub(crate) fn seen(&self, content: Content) {
        self.held().insert(content.name(), Entry { content, visible: true });
    }

    /// Whether EC2 has shown it.
    pub(crate) fn visible(&self, name: &str) -> bool {
        self.held().get(name).is_some_and(|entry| entry.visible)
    }

    /// The content of a template that a launch names: known by its name, or made from a base that is known.
    pub(crate) fn content(&self, template: &TemplateRef) -> Option<Content> {
        let held = self.held();
        if let Some(entry) = held.get(&template.name) {
            return Some(entry.content.clone());
        }
        let image = template.prefetch.as_ref()?;
        let bases = held.values().filter(|entry| entry.content.prefetch.is_none());
        bases.filter_map(|entry| entry.content.variant(image)).find(|content| content.name() == template.name)
    }

    /// Nothing of this pool shall be made again.
    pub(crate) fn forget_pool(&self, pool_uid: &str) {
        self.held().retain(|_, entry| entry.content.pool_uid != pool_uid);
    }

    /// Makes the template of a recorded launch again, which EC2 did not find. The launch itself is for the caller to repeat.
    pub(crate) async fn make_again(&self, clients: &Clients, request: &serde_json::Value) {
        let Ok(request) = FleetRequest::read(request) else { return };
        let Some(content) = self.content(&request.template) else { return };
        if let Some(entry) = self.held().get_mut(&request.template.name) {
            entry.visible = false;
        }
        match template::create(clients, &content).await {
            Ok(_) => self.made(content),
            Err(error) => tracing::warn!(template = request.template.name, %error, "a launch template is gone and cannot be made again"),
        }
    }
}

/// Templates that no pool uses now, by name, and since when.
#[derive(Default)]
pub(crate) struct LeftBehind(Mutex<HashMap<String, Instant>>);

impl LeftBehind {
    /// A variant was asked for: its time begins anew.
    pub(crate) fn asked(&self, name: &str, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), now);
    }

    /// Those that may go: unused for long enough, and not made just now by someone who knows more than we do.
    pub(crate) fn due(&self, current: &str, shown: &[Shown], now: Instant, wall: jiff::Timestamp) -> Vec<String> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.remove(current);
        let old = |shown: &Shown| shown.created.is_some_and(|at| wall.duration_since(at).as_secs() > KEEP.as_secs().cast_signed());
        let mut due = vec![];
        for template in shown.iter().filter(|t| t.name != current) {
            let first = *since.entry(template.name.clone()).or_insert(now);
            let keep = if template.prefetch { KEEP_VARIANT } else { KEEP };
            if now.saturating_duration_since(first) > keep && old(template) {
                due.push(template.name.clone());
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::template::tests::content;

    fn wall() -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn shown(name: &str, age: i64, prefetch: bool) -> Shown {
        Shown { name: name.into(), created: jiff::Timestamp::from_second(1_800_000_000 - age).ok(), prefetch }
    }

    #[test]
    fn templates_outlive_the_launches_that_may_name_them() {
        let (left, start, wall) = (LeftBehind::default(), Instant::now(), wall());
        let both = [shown("new", 10, false), shown("old", 90_000, false)];
        assert!(left.due("new", &both, start, wall).is_empty(), "left behind just now");
        assert!(left.due("new", &both, start + KEEP, wall).is_empty());
        assert_eq!(left.due("new", &both, start + 2 * KEEP, wall), ["old"]);
        assert!(left.due("old", &both, start + 2 * KEEP, wall).is_empty(), "the pool went back to it");
        assert!(left.due("new", &both, start + 2 * KEEP, wall).is_empty(), "and left it again");
    }

    #[test]
    fn variants_stay_for_a_day_after_they_were_last_asked_for() {
        let (left, start, wall) = (LeftBehind::default(), Instant::now(), wall());
        let all = [shown("base", 90_000, false), shown("variant", 90_000, true)];
        left.asked("variant", start);
        assert!(left.due("base", &all, start + 2 * KEEP, wall).is_empty());
        left.asked("variant", start + KEEP_VARIANT);
        assert!(left.due("base", &all, start + KEEP_VARIANT + KEEP, wall).is_empty(), "asked for again");
        assert_eq!(left.due("base", &all, start + 2 * KEEP_VARIANT + KEEP, wall), ["variant"]);
    }

    #[test]
    fn what_a_launch_names_can_be_told_from_its_base() {
        let (known, base) = (Known::default(), content());
        let variant = base.variant("registry.example/big:1").unwrap();
        let named =
            |prefetch: Option<&str>| TemplateRef { name: variant.name(), version: "1".into(), prefetch: prefetch.map(str::to_owned) };
        assert_eq!(known.content(&named(Some("registry.example/big:1"))), None, "nothing is known");
        known.seen(base.clone());
        assert_eq!(known.content(&named(Some("registry.example/big:1"))), Some(variant.clone()));
        assert_eq!(known.content(&named(Some("registry.example/other:1"))), None, "another content has another name");
        assert_eq!(known.content(&named(None)), None);
        assert!(!known.visible(&variant.name()));
        known.made(variant.clone());
        assert!(!known.visible(&variant.name()), "made is not shown");
        known.seen(variant.clone());
        known.made(variant.clone());
        assert!(known.visible(&variant.name()));
        known.forget_pool(&base.pool_uid);
        assert_eq!(known.content(&named(Some("registry.example/big:1"))), None);
    }
}
