//! An intent without an instance.

use super::*;

#[test]
fn an_intent_is_launched_once_and_not_while_one_is_on_the_wire() {
    assert_eq!(plan(&world(intent()), at(1)).actions, vec![Action::Launch]);
    let mut w = world(intent());
    w.launching = true;
    assert_eq!(plan(&w, at(1)).actions, vec![]);
}

#[test]
fn a_launch_that_nobody_wants_any_more_is_not_sent_and_its_intent_goes() {
    let mut w = world(intent());
    w.launching = true; // it waits for its turn
    let (w, _) = step(w, at(1));
    let (mut w, done) = step(empty(w), at(2));
    assert_eq!(done.actions, vec![], "somebody may want it in a moment");
    w.launching = false;
    assert_eq!(step(w.clone(), at(10)).1.actions, vec![], "nobody does yet");
    assert_eq!(step(w.clone(), at(17)).1.actions, vec![Action::Reclaim("nobody needs it any more")]);
    let mut node = (*w.node).clone();
    node.status.as_mut().expect("status").assignments = Some(vec![reservation()]);
    w.node = Arc::new(node);
    assert_eq!(step(w, at(17)).1.actions, vec![Action::Launch], "somebody does");
}

#[test]
fn a_launch_that_was_not_recorded_is_adopted_not_repeated() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Pending)];
    let done = plan(&w, at(5));
    assert_eq!(done.status.instance.expect("adopted").id, "i-1");
    assert!(!done.actions.contains(&Action::Launch));
}

#[test]
fn what_a_launch_brings_is_on_record_with_all_that_follows_from_it_in_one_write() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Pending)];
    let brought = plan(&w, at(5)).status.instance;
    w.instances = vec![]; // listings are behind
    (w.brought, w.launching) = (brought.clone(), true);
    let done = plan(&w, at(5));
    assert!(brought.is_some() && done.status.instance == brought);
    assert!(conditions::is_true(&done.status.conditions, condition::LAUNCHED));
    assert!(!done.actions.contains(&Action::Launch));
}

#[test]
fn a_refusal_ends_the_intent_and_no_answer_does_not() {
    let answer = |class: ErrorClass| Some(LaunchAnswer { definite: class.is_refusal(), class, message: "m".into(), retry_at: at(10) });
    let mut w = world(intent());
    w.launch = answer(ErrorClass::Capacity);
    assert!(matches!(plan(&w, at(5)).actions[..], [Action::Reclaim(_)]));
    w.launch = answer(ErrorClass::Unknown);
    assert_eq!(plan(&w, at(5)).actions, vec![]);
    assert_eq!(plan(&w, at(5)).wake, Some(at(10)));
    assert_eq!(plan(&w, at(10)).actions, vec![Action::Launch]);
    w.launch = answer(ErrorClass::Mismatch);
    assert!(!plan(&w, at(11)).actions.contains(&Action::Launch), "a mismatch is looked for, never sent again");
}

#[test]
fn an_unanswered_launch_is_given_up_only_after_long_complete_listings() {
    let mut w = world(intent());
    w.launch = Some(LaunchAnswer { class: ErrorClass::Unknown, message: "m".into(), definite: false, retry_at: at(10) });
    let late = 3600 + 400;
    (w.complete_since, w.asked) = (Some(at(late - 100)), Some(at(late)));
    assert_eq!(plan(&w, at(late)).actions, vec![], "listings were incomplete until just now");
    w.complete_since = Some(at(late - 301));
    assert!(matches!(plan(&w, at(late)).actions[..], [Action::Reclaim(_)]));
}

#[test]
fn a_refusal_of_the_call_after_an_unanswered_send_proves_nothing() {
    let mut w = world(intent());
    w.launch = Some(LaunchAnswer { class: ErrorClass::Unauthorized, message: "m".into(), definite: false, retry_at: at(10) });
    let (w, done) = step(w, at(5));
    assert_eq!(done.actions, vec![]);
    assert!(conditions::find(&done.status.conditions, condition::LAUNCHED).is_none_or(|c| c.status != "False"));
    assert!(!plan(&deleted(w, 6), at(7)).actions.contains(&Action::RemoveFinalizer), "it may have been obeyed");
}

#[test]
fn an_instance_that_the_provider_ends_before_it_joins_is_held_against_its_offer() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Pending)];
    let (mut w, _) = step(w, at(10));
    let mut dead = instance(InstanceState::Terminated);
    (dead.state_reason, dead.failed) = (Some("Client.InternalError".into()), Some(ErrorClass::Invalid));
    w.instances = vec![dead];
    let (mut w, done) = step(w, at(20));
    let launched = conditions::find(&done.status.conditions, condition::LAUNCHED).expect("a condition");
    assert_eq!((launched.status.as_str(), launched.reason.as_str()), ("False", "CreatedButFailed"));
    assert!(launched.message.contains("Client.InternalError"), "{}", launched.message);
    assert!(matches!(&done.actions[..], [Action::Blame(f), Action::Reclaim(_)] if f.class == ErrorClass::Invalid), "{:?}", done.actions);

    // Asked to end, or taken back: nobody's fault.
    w.instances[0].failed = None;
    assert!(matches!(&plan(&w, at(30)).actions[..], [Action::Reclaim(_)]));
    // It has been of use.
    let mut joined = running();
    joined.instances[0].state = InstanceState::Terminating;
    joined.instances[0].failed = Some(ErrorClass::Capacity);
    assert!(!plan(&joined, at(200)).actions.iter().any(|a| matches!(a, Action::Blame(_))));
}

#[test]
fn what_is_refused_and_was_never_seen_is_given_up_though_an_earlier_send_is_unanswered() {
    let mut w = world(intent());
    let answer = |class| LaunchAnswer { class, message: "no".into(), definite: false, retry_at: at(5000) };
    w.launch = Some(answer(ErrorClass::Unauthorized));
    w.asked = Some(at(299));
    assert_eq!(plan(&w, at(299)).actions, vec![], "the listing may lag behind");
    w.asked = Some(at(301));
    for class in [ErrorClass::Unauthorized, ErrorClass::NotFound] {
        w.launch = Some(answer(class));
        assert!(matches!(&plan(&w, at(301)).actions[..], [Action::Reclaim(_)]));
    }
    w.launch = Some(answer(ErrorClass::Unknown));
    assert_eq!(plan(&w, at(301)).actions, vec![], "it may yet be obeyed");
}
