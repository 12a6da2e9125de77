//! Cases of requests and the answers to them, put to any API server: to [`super::FakeKube`] in every test run, and to the lab's real
//! one end to end. What they agree on is what the simulator may build on.
//!
//! The files are `sim/conformance/*.yaml`. A case is a list of steps, each one request (or a watch) and what must be true of the
//! answer. Every case has a namespace of its own, `<ns>`, and names what is cluster-scoped after it.

use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncBufReadExt, TryStreamExt};
use http_body_util::BodyExt;
use kube::Client;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence: what is so.
    pub name: String,
    /// In order; a case ends at the first that is not as expected.
    pub steps: Vec<Step>,
}

/// One request and what is expected of the answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `POST /path?query`, or `WATCH /path?query`.
    send: String,
    /// Of the body: `json`, `merge`, `json-patch`, `strategic` or `apply`.
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    body: Value,
    /// From a name to a JSON pointer into the answer.
    #[serde(default)]
    save: BTreeMap<String, String>,
    #[serde(default)]
    expect: Expect,
    /// Of a watch: its events in order. Bookmarks count only where one is expected.
    #[serde(default)]
    events: Vec<Value>,
    /// Asked again until the answer is as expected, for so many seconds.
    #[serde(default)]
    within: u64,
}

/// What is expected. Whatever is left out may be anything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    reason: Option<String>,
    /// A part of the message.
    #[serde(default)]
    message: Option<String>,
    /// Fields of the answer. Maps may have more fields, lists not more items.
    #[serde(default)]
    body: Value,
    /// JSON pointers at nothing.
    #[serde(default)]
    absent: Vec<String>,
    /// From a JSON pointer to what is not there.
    #[serde(default)]
    other: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Bases(BTreeMap<String, Value>);

/// Every case, in the order of the files.
///
/// # Panics
/// When a file is not what [`Case`] says; the tests read them all.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        include_str!("../../conformance/objects.yaml"),
        include_str!("../../conformance/patches.yaml"),
        include_str!("../../conformance/apply.yaml"),
        include_str!("../../conformance/status.yaml"),
        include_str!("../../conformance/schema.yaml"),
        include_str!("../../conformance/lists.yaml"),
        include_str!("../../conformance/watches.yaml"),
        include_str!("../../conformance/deletes.yaml"),
        include_str!("../../conformance/pods.yaml"),
    ]
    .into_iter()
    .flat_map(|text| serde_saphyr::from_str::<Vec<Case>>(text).expect("a file of cases"))
    .collect()
}

/// What one run of a case knows.
struct Run<'a> {
    client: &'a Client,
    /// What `<name>` stands for.
    names: BTreeMap<String, String>,
    bases: BTreeMap<String, Value>,
}

/// Puts a case to the server behind `client`. `group` is the API group of our CRDs there, and `namespace` a name that is free.
///
/// # Errors
/// At the first step whose answer is not as expected: which, and how it differs.
///
/// # Panics
/// When the bases cannot be read.
pub async fn run(client: &Client, group: &str, namespace: &str, case: &Case) -> Result<()> {
    let Bases(bases) = serde_saphyr::from_str(include_str!("../../conformance/bases.yaml")).expect("the bases");
    let names = [("ns", namespace), ("group", group), ("api", "gpujob.dev/v1alpha1")];
    let mut names: BTreeMap<String, String> = names.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    names.insert("api".to_owned(), format!("{group}/v1alpha1"));
    let mut run = Run { client, names, bases };
    let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    run.send("POST", "/api/v1/namespaces", "application/json", &json!({"metadata": {"name": namespace}})).await?;
    for _ in 0..100 {
        if run.send("GET", &account, "", &Value::Null).await?.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut done = Ok(());
    for (at, step) in case.steps.iter().enumerate() {
        done = run.step(step).await.with_context(|| format!("step {}: {}", at + 1, run.filled(&step.send)));
        if done.is_err() {
            break;
        }
    }
    run.send("DELETE", &format!("/api/v1/namespaces/{namespace}"), "application/json", &Value::Null).await?;
    done
}

impl Run<'_> {
    async fn step(&mut self, step: &Step) -> Result<()> {
        let (verb, path) = self.filled(&step.send).split_once(' ').map(|(v, p)| (v.to_owned(), p.to_owned())).context("VERB /path")?;
        if verb == "WATCH" {
            return self.watch(&path, step).await;
        }
        let kind = match step.kind.as_deref() {
            None | Some("json") => "application/json",
            Some("merge") => "application/merge-patch+json",
            Some("json-patch") => "application/json-patch+json",
            Some("strategic") => "application/strategic-merge-patch+json",
            Some("apply") => "application/apply-patch+yaml",
            Some(other) => bail!("{other} is no kind of body"),
        };
        let body = self.value(&step.body)?;
        let mut tries = step.within * 5;
        let answer = loop {
            let (status, answer) = self.send(&verb, &path, kind, &body).await?;
            match self.judge(&step.expect, status, &answer) {
                Ok(()) => break answer,
                Err(_) if tries > 0 => tries -= 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        for (name, pointer) in &step.save {
            let saved = answer.pointer(pointer).with_context(|| format!("nothing at {pointer} to save: {answer}"))?;
            let text = saved.as_str().map_or_else(|| saved.to_string(), str::to_owned);
            self.names.insert(name.clone(), text);
        }
        Ok(())
    }

    async fn send(&self, verb: &str, path: &str, kind: &str, body: &Value) -> Result<(u16, Value)> {
        let bytes = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(verb).uri(path).header("content-type", kind).header("user-agent", "conformance/1");
        let answer = self.client.send(request.body(bytes.into())?).await?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes)));
        Ok((status, value))
    }

    fn judge(&self, expect: &Expect, status: u16, answer: &Value) -> Result<()> {
        if let Some(expected) = expect.status {
            ensure!(status == expected, "status {status}, not {expected}: {answer}");
        }
        if let Some(reason) = &expect.reason {
            ensure!(answer["reason"] == *reason, "the reason is {}, not {reason}: {answer}", answer["reason"]);
        }
        if let Some(part) = &expect.message {
            let part = self.filled(part);
            let message = answer["message"].as_str().unwrap_or_default();
            ensure!(message.contains(&part), "the message is {message:?}, which has no {part:?}");
        }
        if !expect.body.is_null() {
            let wanted = self.value(&expect.body)?;
            differs(&wanted, answer, "").map_or(Ok(()), |how| Err(anyhow::anyhow!("{how}: {answer}")))?;
        }
        for pointer in &expect.absent {
            ensure!(answer.pointer(pointer).is_none(), "there is something at {pointer}: {answer}");
        }
        for (pointer, value) in &expect.other {
            let there = answer.pointer(pointer).with_context(|| format!("nothing at {pointer}: {answer}"))?;
            let there = there.as_str().map_or_else(|| there.to_string(), str::to_owned);
            ensure!(there != self.filled(value), "{pointer} is still {there}");
        }
        Ok(())
    }

    async fn watch(&self, path: &str, step: &Step) -> Result<()> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let request = http::Request::get(format!("{path}{separator}watch=true&timeoutSeconds=5")).body(vec![])?;
        let mut lines = self.client.request_stream(request).await?.lines();
        let mut seen = vec![];
        for wanted in &step.events {
            let wanted = self.value(wanted)?;
            let event = loop {
                let line = lines.try_next().await?;
                let Some(line) = line else { bail!("the watch ended after {seen:?}, without {wanted}") };
                let event: Value = serde_json::from_str(&line)?;
                if event["type"] != "BOOKMARK" || wanted["type"] == "BOOKMARK" {
                    break event;
                }
            };
            if let Some(how) = differs(&wanted, &event, "") {
                bail!("{how}: {event}, after {seen:?}");
            }
            seen.push(event["type"].clone());
        }
        Ok(())
    }

    /// A text with `<names>` filled in.
    fn filled(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("<{name}>"), value))
    }

    /// A value with `<names>` filled in, over the base that it names with `$`.
    fn value(&self, value: &Value) -> Result<Value> {
        Ok(match value {
            Value::String(text) => Value::from(self.filled(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect::<Result<_>>()?,
            Value::Object(map) => {
                let mut filled = Map::new();
                for (name, inner) in map.iter().filter(|(name, _)| *name != "$") {
                    filled.insert(self.filled(name), self.value(inner)?);
                }
                let over = Value::Object(filled);
                let Some(base) = map.get("$").and_then(Value::as_str) else { return Ok(over) };
                let mut base = self.value(self.bases.get(base).with_context(|| format!("no base {base}"))?)?;
                json_patch::merge(&mut base, &over);
                base
            }
            other => other.clone(),
        })
    }
}

/// Where a value is not as wanted; `<any>` is whatever is there.
fn differs(wanted: &Value, is: &Value, at: &str) -> Option<String> {
    match (wanted, is) {
        (Value::String(any), is) if any == "<any>" && !is.is_null() => None,
        (Value::Object(wanted), Value::Object(is)) => {
            wanted.iter().find_map(|(name, inner)| differs(inner, is.get(name).unwrap_or(&Value::Null), &format!("{at}/{name}")))
        }
        (Value::Array(wanted), Value::Array(is)) if wanted.len() == is.len() => {
            wanted.iter().zip(is).enumerate().find_map(|(n, (wanted, is))| differs(wanted, is, &format!("{at}/{n}")))
        }
        (wanted, is) if wanted == is => None,
        (wanted, is) => Some(format!("{at} is {is}, not {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_told_apart_and_expect_something() {
        let cases = all();
        let names: std::collections::BTreeSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() >= 60, "{}", cases.len());
        for case in &cases {
            let says = |s: &Step| s.expect.status.is_some() || !s.events.is_empty();
            assert!(case.steps.iter().all(says), "{:?}: every step expects a status or events", case.name);
        }
    }

    #[test]
    fn differences_are_found() {
        let is = json!({"a": [1, {"b": "c"}], "d": null});
        assert_eq!(differs(&json!({"a": [1, {"b": "<any>"}]}), &is, ""), None);
        assert_eq!(differs(&json!({"a": [1]}), &is, "").as_deref(), Some(r#"/a is [1,{"b":"c"}], not [1]"#));
        assert!(differs(&json!({"d": "<any>"}), &is, "").is_some());
    }
}
