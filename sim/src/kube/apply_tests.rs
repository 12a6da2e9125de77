//! Owners, as the real server keeps them (`sim/conformance/apply.yaml` asks it).

use super::super::resource::named;
use super::*;
use jiff::Timestamp;

fn jobs() -> &'static Resource {
    named("gpujobs").expect("jobs are served")
}

fn actor(manager: &str) -> Actor {
    Actor { verb: "apply", subresource: "status".into(), manager: manager.into(), now: Timestamp::UNIX_EPOCH, dry: false }
}

fn applied(live: &Value, manager: &str, status: Value, force: bool) -> Result<Value, Refusal> {
    let Applied { mut object, owners } = apply(jobs(), live, &json!({"status": status}), &actor(manager), force)?;
    managed::write(&mut object, owners, &[], "1970-01-01T00:00:00Z");
    Ok(object)
}

fn condition(type_: &str, status: &str) -> Value {
    json!({"type": type_, "status": status})
}

#[test]
fn what_is_wanted_no_more_goes_and_what_others_want_stays() {
    let first = applied(&json!({}), "a", json!({"conditions": [condition("X", "1"), condition("Y", "1")], "state": "s"}), false);
    let second = applied(&first.expect("nobody else"), "b", json!({"conditions": [condition("Y", "1"), condition("Z", "1")]}), false);
    let third = applied(&second.expect("the same values"), "a", json!({"conditions": [condition("X", "2")]}), false);
    let status = &third.expect("its own")["status"];
    assert_eq!(*status, json!({"conditions": [condition("X", "2"), condition("Y", "1"), condition("Z", "1")]}));
}

#[test]
fn another_managers_field_is_a_conflict_unless_forced() {
    let first = applied(&json!({}), "a", json!({"conditions": [condition("X", "1")]}), false).expect("nobody else");
    let wanted = json!({"conditions": [condition("X", "2")]});
    let refusal = applied(&first, "b", wanted.clone(), false).expect_err("a's");
    assert_eq!(refusal.message, r#"Apply failed with 1 conflict: conflict with "a": .status.conditions[type="X"].status"#);
    let forced = applied(&first, "b", wanted, true).expect("forced");
    assert_eq!(forced["status"]["conditions"], json!([condition("X", "2")]));
    // It is b's now: a, who applies nothing, takes only what is still its own.
    let left = applied(&forced, "a", json!({}), false).expect("nothing is wanted");
    assert_eq!(left["status"]["conditions"], json!([condition("X", "2")]));
    let owners = managed::read(&left);
    let a = owners.iter().find(|e| e.manager == "a").map(|e| e.fields.0.iter().map(|p| told(p)).collect::<Vec<_>>());
    assert_eq!(a, Some(vec![".status".to_owned()]), "only the map itself");
}

#[test]
fn a_holder_goes_with_what_it_held() {
    let first = applied(&json!({}), "a", json!({"state": "s", "waiting": {"nextTry": "t"}}), false).expect("nobody else");
    let second = applied(&first, "a", json!({"state": "s"}), false).expect("its own");
    assert_eq!(second["status"], json!({"state": "s"}));
}

#[test]
fn an_endpoint_takes_only_its_part() {
    let whole = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"pools": ["p"]}, "status": {"state": "s"}});
    let status = apply(jobs(), &json!({}), &whole, &actor("a"), false).expect("nobody else");
    assert_eq!(status.object, json!({"status": {"state": "s"}}));
    let main = Actor { subresource: String::new(), ..actor("a") };
    let main = apply(jobs(), &json!({}), &whole, &main, false).expect("nobody else");
    assert_eq!(main.object, json!({"metadata": {"labels": {"a": "b"}}, "spec": {"pools": ["p"]}}));
}

#[test]
fn updates_take_over_what_they_change() {
    let first = applied(&json!({}), "a", json!({"state": "s", "conditions": [condition("X", "1")]}), false).expect("nobody else");
    let mut after = first.clone();
    after["status"]["state"] = json!("t");
    let editor = Actor { verb: "update", ..actor("editor") };
    let owners = managed::updated(managed::read(&first), jobs(), &first, &after, &editor);
    managed::write(&mut after, owners, &[], "1970-01-01T00:00:00Z");
    let owners = managed::read(&after);
    let of = |manager: &str| owners.iter().find(|e| e.manager == manager).map(|e| e.fields.0.iter().map(|p| told(p)).collect::<Vec<_>>());
    assert_eq!(of("editor"), Some(vec![".status.state".to_owned()]));
    assert!(of("a").expect("a still has its condition").iter().all(|p| p.contains("conditions")));
}
