//! The cases of the CRDs, which a real API server judges too.

use super::super::resource::named;
use super::*;
use gpujob_crds::cases::{By, all};
use serde_json::json;

fn schema(kind: &str) -> &'static Schema {
    named(&format!("{}s", kind.to_lowercase())).and_then(|r| r.schema()).expect("a kind of ours")
}

#[test]
fn cases_are_judged_as_they_say() {
    let mut judged = 0;
    for case in all() {
        let schema = schema(&case.kind);
        let prepare = |object: &Value| {
            let mut object = object.clone();
            let dropped = schema.prune(&mut object);
            schema.default(&mut object);
            (object, dropped)
        };
        let (object, dropped) = prepare(&case.object);
        let old = case.old.as_ref().map(|old| prepare(old).0);
        let causes = schema.judge(&object, old.as_ref());
        let told: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        match (&case.reject, case.by) {
            (None, _) => assert!(told.is_empty(), "{:?} is refused: {told:?}", case.name),
            (Some(part), By::Strict) => {
                let dropped = dropped.iter().map(|d| format!("unknown field {d:?}")).collect::<Vec<_>>();
                assert!(dropped.iter().any(|d| d.contains(part.as_str())), "{:?}: {dropped:?} has no {part:?}", case.name);
                assert!(told.is_empty(), "{:?} is refused even when it is not strict: {told:?}", case.name);
            }
            (Some(part), _) => assert!(told.iter().any(|t| t.contains(part.as_str())), "{:?}: {told:?} has no {part:?}", case.name),
        }
        judged += 1;
    }
    assert!(judged > 50, "{judged}");
}

#[test]
fn what_a_schema_says_and_nobody_checks_is_found() {
    assert_eq!(unknown(&json!({"properties": {"a": {"items": {"pattern": "x", "type": "string"}}}})), ["pattern"]);
}
