//! The namespace controller: a namespace that goes takes its contents with it, and goes when they are gone.

use super::delete::{Options, delete};
use super::path::Target;
use super::resource::{all, named};
use super::store::{Actor, State};
use super::write::settle;
use jiff::Timestamp;
use serde_json::json;

/// One pass. How many objects it changed.
pub(crate) fn finish(state: &mut State, now: Timestamp) -> usize {
    let namespaces = named("namespaces").expect("namespaces are served");
    let going: Vec<_> = state.of(namespaces).iter().filter(|(_, o)| o.deleting()).map(|(k, o)| (k.clone(), o.clone())).collect();
    let mut done = 0;
    for (key, namespace) in going {
        let mut left = 0;
        for resource in all().iter().filter(|r| r.namespaced) {
            let from = (key.1.clone(), String::new());
            let inside: Vec<_> =
                state.of(resource).range(from..).take_while(|(k, _)| k.0 == key.1).map(|(k, o)| (k.clone(), o.clone())).collect();
            left += inside.len();
            for (key, _) in inside.into_iter().filter(|(_, o)| !o.deleting()) {
                let target = Target { resource, namespace: key.0, name: key.1, subresource: String::new() };
                let actor = Actor::controller("namespace-controller", "delete", now);
                done += usize::from(delete(state, &actor, &target, &Options::default()).is_ok());
            }
        }
        if left == 0 {
            let mut empty = serde_json::Value::clone(&namespace.value);
            empty["spec"]["finalizers"] = json!([]);
            settle(state, &Actor::controller("namespace-controller", "update", now), namespaces, key, empty);
            done += 1;
        }
    }
    done
}
