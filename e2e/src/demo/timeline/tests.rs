//! The story told from made-up sights.

use super::*;
use crate::demo::sight::Books;
use anyhow::Result;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(value: Value) -> Result<Box<T>> {
    Ok(Box::new(serde_json::from_value(value)?))
}

fn job(status: Value) -> Result<Sight> {
    let spec = json!({"gpu": {"count": 1}, "template": {"spec": {"containers": [{"name": "main", "image": "i"}]}}});
    let object = json!({"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": "j", "uid": "u"}, "spec": spec, "status": status});
    Ok(Sight::Job(read(object)?))
}

fn intent(uid: &str, status: Value) -> Result<Sight> {
    let offers = json!([{"instanceType": "g6.xlarge", "zone": "us-east-1a", "pricePerHour": "0.30", "gpus": 1}]);
    let spec = json!({
        "pool": "p", "poolUid": "pu", "provider": "aws", "region": "us-east-1", "gpus": 1, "resourceName": "nvidia.com/gpu",
        "launchedFor": [{"jobUid": uid, "namespace": "default", "name": "j", "attempt": 1, "gpus": 1}],
        "launch": {"ordinal": 1, "market": "spot", "offers": offers, "request": {}},
    });
    let object =
        json!({"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "gn-1"}, "spec": spec, "status": status});
    Ok(Sight::Intent(read(object)?))
}

fn words(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.word).collect()
}

#[test]
fn each_step_is_told_once_and_other_jobs_nodes_never() -> Result<()> {
    let mut line = Timeline::default();
    assert_eq!(words(&line.see(1.0, &job(json!({}))?)), ["apply"]);
    assert!(line.see(1.0, &job(json!({}))?).is_empty());
    assert!(line.see(1.1, &intent("another", json!({}))?).is_empty());
    let rows = line.see(1.2, &intent("u", json!({}))?);
    assert_eq!(rows[0].what, "spot g6.xlarge in us-east-1a at $0.30 an hour");
    Ok(())
}

#[test]
fn launch_is_when_ec2_was_called_and_money_is_what_ec2_bills() -> Result<()> {
    let mut line = Timeline::default();
    line.see(1.0, &job(json!({}))?);
    line.see(1.0, &intent("u", json!({}))?);
    let calls = vec![json!({"action": "CreateFleet", "at": 0.5}), json!({"action": "CreateFleet", "at": 1.25})];
    line.see(1.5, &Sight::Books(Books { calls, ..Books::default() }));
    let instance =
        json!({"id": "i-1", "instanceType": "g6.xlarge", "zone": "us-east-1a", "market": "spot", "pricePerHour": "0.30", "gpus": 1});
    let rows = line.see(1.6, &intent("u", json!({"instance": instance}))?);
    assert_eq!((words(&rows), rows[0].at), (vec!["launch"], 1.25));
    let books = Books {
        calls: vec![],
        instances: vec![json!({"id": "i-1", "state": "running", "running": 2.0}), json!({"id": "i-2", "state": "terminated"})],
        bill: vec![json!({"id": "i-1", "cost": 0.005}), json!({"id": "i-2", "cost": 9.0})],
    };
    let rows = line.see(2.0, &Sight::Books(books));
    assert_eq!((words(&rows), rows[0].dollars), (vec!["boot"], 0.005));
    Ok(())
}

#[test]
fn a_verdict_ends_the_wait() -> Result<()> {
    let condition = |status: &str| json!({"type": "Succeeded", "status": status, "reason": "ProgramFailed", "message": "exit code 3", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let mut line = Timeline::default();
    line.see(1.0, &job(json!({"conditions": [condition("Unknown")]}))?);
    assert_eq!((line.verdict(), line.doing().as_str()), (None, "exit code 3"));
    let rows = line.see(2.0, &job(json!({"conditions": [condition("False")]}))?);
    assert_eq!((line.verdict(), rows[0].what.as_str()), (Some(false), "Failed, ProgramFailed: exit code 3"));
    Ok(())
}

#[test]
fn numbers_read_well() {
    assert_eq!((count(1, "file"), count(2, "file")), ("1 file".to_owned(), "2 files".to_owned()));
    assert_eq!([bytes(999), bytes(12_345), bytes(2_500_000)], ["999 B", "12.3 kB", "2.5 MB"]);
}
