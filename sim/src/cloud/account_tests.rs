use super::*;
use crate::cloud::machine::TERMINATED;
use gpujob_crds::Market;

fn start() -> Timestamp {
    Timestamp::from_second(1_767_225_600).expect("a time")
}

fn place() -> Place {
    Place { instance_type: "g6.xlarge".into(), zone: "us-east-1a".into(), market: Market::Spot }
}

/// An account with one instance, made at the start and running 15 s later.
fn account() -> (Account, String) {
    let mut account = Account::new(start());
    let id = account.make_machine(&place(), BTreeMap::new(), "", "test");
    account.machines.get_mut(&id).expect("made").max_lifetime = Some(SignedDuration::from_hours(168));
    (account, id)
}

fn settle(account: &mut Account, seconds: i64) {
    account.settle(start() + SignedDuration::from_secs(seconds));
}

fn ended(account: &Account, id: &str) -> Option<i64> {
    account.machines[id].ending.map(|at| at.duration_since(start()).as_secs())
}

#[test]
fn what_is_due_happens_at_its_time_however_late_anybody_looks() {
    let (mut account, id) = account();
    settle(&mut account, 100);
    account.end(&id, TERMINATED);
    assert_eq!(account.bazaar.stalls[&place()].used, 1, "a dying one still takes room");
    settle(&mut account, 1000);
    let machine = &account.machines[&id];
    let seconds = |at: Option<Timestamp>| at.map(|at| at.duration_since(start()).as_secs());
    assert_eq!((seconds(machine.running), seconds(machine.ending), seconds(machine.gone)), (Some(15), Some(100), Some(120)));
    assert_eq!(account.bazaar.stalls[&place()].used, 0, "its room is free again");
    assert!(account.volumes.is_empty());
    let events: Vec<_> = account.events.iter().map(|e| (e.number, e.at.duration_since(start()).as_secs())).collect();
    assert_eq!(events, [(1, 0), (2, 15), (3, 100), (4, 120)]);
}

#[test]
fn instances_boot_as_told() {
    let mut account = Account::new(start());
    account.manners.boot.push((Places::of("g6.*"), Boot::Never));
    account.manners.boot.push((Places::of("g6.xlarge"), Boot::Dies(Duration::from_secs(5), "Server.InternalError".into())));
    let dies = account.make_machine(&place(), BTreeMap::new(), "", "test");
    let never = account.make_machine(&Place { instance_type: "g6.2xlarge".into(), ..place() }, BTreeMap::new(), "", "test");
    settle(&mut account, 10_000);
    assert_eq!(account.machines[&dies].why.as_deref(), Some("Server.InternalError"));
    assert!(account.machines[&never].running.is_none() && account.machines[&never].is_alive());
}

#[test]
fn one_whose_kubelet_does_not_join_powers_itself_off() {
    let (mut account, id) = account();
    settle(&mut account, 1814);
    assert_eq!(ended(&account, &id), None);
    settle(&mut account, 10_000);
    assert_eq!(ended(&account, &id), Some(15 + 1800));
    assert_eq!(account.machines[&id].why.as_deref(), Some(POWERED_OFF));
}

#[test]
fn one_that_joined_stays_while_it_hears_the_api_server() {
    let (mut account, id) = account();
    account.machines.get_mut(&id).expect("made").joined = Some(start());
    settle(&mut account, 5000);
    account.hears(&id, false);
    settle(&mut account, 8000);
    account.hears(&id, true);
    settle(&mut account, 9000);
    account.hears(&id, false);
    account.hears(&id, false);
    settle(&mut account, 20_000);
    assert_eq!(ended(&account, &id), Some(9000 + 3600), "an hour of silence without a break");
}

#[test]
fn no_instance_outlives_its_pool_s_limit() {
    let (mut account, id) = account();
    let machine = account.machines.get_mut(&id).expect("made");
    machine.joined = Some(start());
    machine.max_lifetime = Some(SignedDuration::from_hours(2));
    settle(&mut account, 100_000);
    assert_eq!(ended(&account, &id), Some(15 + 7200));
}

#[test]
fn timers_can_be_broken() {
    let (mut account, id) = account();
    account.manners.timers = false;
    settle(&mut account, 1_000_000);
    assert_eq!(ended(&account, &id), None);
}

#[test]
fn the_dead_are_found_for_an_hour() {
    let (mut account, id) = account();
    account.end(&id, TERMINATED);
    settle(&mut account, 20 + 3599);
    assert!(account.find(&id).is_some());
    settle(&mut account, 20 + 3600);
    assert!(account.find(&id).is_none());
    assert!(account.machines.contains_key(&id), "the truth keeps them");
}

#[test]
fn a_volume_may_outlive_its_instance() {
    let (mut account, id) = account();
    account.machines.get_mut(&id).expect("made").leaves_volume = true;
    account.end(&id, TERMINATED);
    settle(&mut account, 100);
    assert_eq!(account.volumes.values().map(|v| v.instance.clone()).collect::<Vec<_>>(), [None]);
}
