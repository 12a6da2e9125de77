//! Oracles: what must hold at every write, at every second, and in the end. They see the truth (every write of the API server,
//! every instance of the cloud, what the store holds), never the operator's own view of it.

mod bill;
mod conditions;
mod doubled;
mod jobs;
mod mirror;
mod nodes;
mod waiting;
mod words;

use crate::clock::SimClock;
use crate::cloud::FakeCloud;
use crate::faults::Witness;
use crate::kube::{FakeKube, Wrote};
use crate::run::schedule::Violation;
use crate::timeline::{Kind, Timeline};
use crate::world::{Delivered, Store};
use gpujob_crds::{GpuJob, names};
use gpujob_operator::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use mirror::{Change, Key, Mirror};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// How long after something went wrong its effects still excuse a delay: timeouts and backoffs of a minute, and then one try.
const AFTERMATH: SignedDuration = SignedDuration::from_secs(90);

#[derive(Default)]
struct State {
    mirror: Mirror,
    programs: jobs::Programs,
    bill: bill::Bill,
    doubled: doubled::Doubled,
    seen: u64,
    calm: Timestamp,
    last_write: Duration,
    violations: Vec<Violation>,
    said: BTreeSet<String>,
}

/// The watchman of a schedule.
pub struct Oracle {
    kube: FakeKube,
    cloud: FakeCloud,
    store: OnceLock<Store>,
    clock: SimClock,
    timeline: Timeline,
    cluster: OnceLock<String>,
    /// How far clocks of this schedule jump backwards, all together; `None`: none jumps at all.
    stepped: Option<SignedDuration>,
    state: Mutex<State>,
}

impl Oracle {
    /// For one schedule.
    #[must_use]
    pub fn new(kube: FakeKube, cloud: FakeCloud, clock: SimClock, timeline: Timeline, stepped: Option<SignedDuration>) -> Arc<Self> {
        let state = State { calm: clock.now(), ..State::default() };
        let (store, cluster) = (OnceLock::new(), OnceLock::new());
        Arc::new(Oracle { kube, cloud, store, clock, timeline, cluster, stepped, state: Mutex::new(state) })
    }

    /// Tells it where results go and which instances are ours.
    pub fn introduce(&self, store: Store, cluster: &str) {
        let _ = self.store.set(store);
        let _ = self.cluster.set(cluster.to_owned());
    }

    /// The holder of the Lease.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        self.state.lock().expect("no panic holds this lock").mirror.leader()
    }

    /// How long our processes have written nothing.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.state.lock().expect("no panic holds this lock").last_write)
    }

    /// What was seen so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.state.lock().expect("no panic holds this lock").violations.clone()
    }

    /// A promise is broken. Said once.
    pub fn accuse(&self, oracle: &'static str, what: impl Into<String>) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        self.broken(&mut state, oracle, what.into());
    }

    fn broken(&self, state: &mut State, oracle: &'static str, what: String) {
        if state.said.insert(format!("{oracle} {what}")) {
            self.timeline.note(oracle, Kind::Violation, what.as_str());
            state.violations.push(Violation { second: self.clock.elapsed().as_secs(), oracle, what });
        }
    }

    /// One look at everything that is checked by the clock.
    pub fn look(&self) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        self.catch_up(&mut state, None);
        let (now, calm) = (self.clock.now(), state.calm);
        let (machines, cluster) = (self.cloud.instances(), self.cluster.get().cloned().unwrap_or_default());
        let behind = self.stepped.unwrap_or_default();
        let State { bill, doubled, mirror, .. } = &mut *state;
        let mut wrong: Vec<(&'static str, String)> =
            bill.look(&machines, &cluster, mirror, calm, behind, now).into_iter().map(|w| ("ledger", w)).collect();
        wrong.extend(waiting::look(mirror, calm, now).into_iter().map(|w| ("no silent wait", w)));
        wrong.extend(doubled.look(mirror, calm, now).into_iter().map(|w| ("one place", w)));
        for (oracle, what) in wrong {
            self.broken(&mut state, oracle, what);
        }
    }

    /// What must hold once all is over: nothing is left, and nothing that began to go is still there.
    pub fn finish(&self) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        self.catch_up(&mut state, None);
        let mut wrong = vec![];
        for ((resource, _, name), object) in state.mirror.all() {
            if object["metadata"].get("deletionTimestamp").is_some() {
                wrong.push(("finalizers", format!("{resource}/{name} is still being deleted: {}", object["metadata"]["finalizers"])));
            }
        }
        let cluster = self.cluster.get().cloned().unwrap_or_default();
        let ours = |tags: &std::collections::BTreeMap<String, String>| tags.get(names::CLUSTER_TAG) == Some(&cluster);
        for machine in self.cloud.instances() {
            match ours(&machine.tags) {
                true if machine.gone.is_none() => wrong.push(("zero", format!("{} is still there", machine.id))),
                // Somebody else's: only a hand of ours could have ended it.
                false if machine.why.as_deref() == Some(crate::cloud::TERMINATED) => {
                    wrong.push(("ledger", format!("{} of another cluster was ended", machine.id)));
                }
                _ => {}
            }
        }
        let (ours, others): (Vec<_>, Vec<_>) = self.cloud.volumes().into_iter().partition(|v| ours(&v.tags));
        wrong.extend(ours.into_iter().map(|volume| ("zero", format!("volume {} is still there", volume.id))));
        if !others.iter().any(|volume| volume.instance.is_none()) {
            wrong.push(("ledger", "a volume of another cluster was removed".to_owned()));
        }
        for (oracle, what) in wrong {
            self.broken(&mut state, oracle, what);
        }
    }

    /// Takes in all writes since the last time. `mine`: one of them has just been made by this process.
    fn catch_up(&self, state: &mut State, mine: Option<(&str, Option<u64>, Wrote)>) {
        let fresh = self.kube.writes_after(state.seen);
        state.seen += fresh.len() as u64;
        for write in fresh {
            let author = mine.filter(|(.., w)| (w.first..=w.last).contains(&write.number));
            let key: Key = (write.resource.to_string(), write.namespace.clone(), write.name.clone());
            let new = (!write.deleted).then(|| write.object().clone());
            let old = state.mirror.apply(&key, new.as_ref());
            let change = Change {
                who: author.map_or_else(|| write.manager.clone(), |(who, ..)| who.to_owned()),
                ours: author.is_some(),
                resource: key.0,
                name: key.2,
                old,
                new,
            };
            let deleted = |v: &Option<Arc<serde_json::Value>>| v.as_ref().is_some_and(|v| v["metadata"].get("deletionTimestamp").is_some());
            if change.resource == "gpunodes" && !change.ours && deleted(&change.new) && !deleted(&change.old) {
                state.mirror.deleted_by_others.insert(change.name.clone());
            }
            self.tell(&change, author.and_then(|a| a.1));
            for (oracle, what) in self.judge(state, &change) {
                self.broken(state, oracle, format!("{}/{}: {what}", change.resource, change.name));
            }
        }
    }

    /// A line in the timeline.
    fn tell(&self, change: &Change, number: Option<u64>) {
        let number = number.map(|n| format!("[{n}] ")).unwrap_or_default();
        let text = match change.resource.as_str() {
            "leases" => {
                let holder = |v: &Option<Arc<serde_json::Value>>| v.as_ref().map(|v| v["spec"]["holderIdentity"].clone());
                let (was, is) = (holder(&change.old), holder(&change.new));
                if was == is || change.name != "gpujob-operator" {
                    return;
                }
                format!("the Lease is held by {}", is.unwrap_or_default())
            }
            "events" => {
                let event = change.new.as_ref().map(|v| (v["reason"].clone(), v["note"].clone())).unwrap_or_default();
                format!("{number}event {}: {}", event.0.as_str().unwrap_or_default(), event.1.as_str().unwrap_or_default())
            }
            resource => {
                format!("{number}{resource}/{} {}", change.name, words::words(change.old.as_ref(), change.new.as_ref()))
            }
        };
        let who = if change.who.is_empty() { "somebody" } else { &change.who };
        self.timeline.note(who, Kind::Write, text);
    }

    fn judge(&self, state: &mut State, change: &Change) -> Vec<(&'static str, String)> {
        let mut wrong: Vec<(&'static str, String)> = vec![];
        match change.resource.as_str() {
            "gpujobs" => {
                let delivered = |job: &GpuJob| self.delivered(job);
                let disturbed = |node: &str| self.disturbance(&state.mirror, node);
                let proof = jobs::Proof { programs: &state.programs, delivered: &delivered, disturbed: &disturbed };
                wrong.extend(jobs::check(change, &proof).into_iter().map(|w| ("job", w)));
            }
            "gpunodes" => {
                let going = |node: &str| self.disturbance(&state.mirror, node).is_some();
                wrong.extend(nodes::check(change, &state.mirror, &going).into_iter().map(|w| ("node", w)));
            }
            "pods" => {
                if let (_, Some(pod)) = change.typed() {
                    state.programs.see(&pod);
                }
            }
            _ => {}
        }
        if change.resource.starts_with("gpu") {
            wrong.extend(conditions::check(change, self.stepped.is_some()).into_iter().map(|w| ("conditions", w)));
        }
        wrong
    }

    fn delivered(&self, job: &GpuJob) -> Result<(String, i32), String> {
        let to = job.spec.results.as_ref().map(|r| r.to.clone()).unwrap_or_default();
        match self.store.get().map(|s| s.delivered(&to)) {
            Some(Delivered::Exactly { job_uid, attempt, .. }) => Ok((job_uid, i32::try_from(attempt).unwrap_or(-1))),
            other => Err(format!("{other:?}")),
        }
    }

    /// When the instance behind a GpuNode began to go. An announcement alone disturbs no program.
    fn disturbance(&self, mirror: &Mirror, node: &str) -> Option<Timestamp> {
        let id = mirror.nodes.get(node)?.status.as_ref()?.instance.as_ref()?.id.clone();
        let machine = self.cloud.instance(&id)?;
        machine.ending
    }
}

impl Witness for Oracle {
    fn wrote(&self, who: &str, number: Option<u64>, wrote: Wrote) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        if number.is_some() {
            state.last_write = self.clock.elapsed();
        }
        self.catch_up(&mut state, Some((who, number, wrote)));
    }

    fn called(&self) {
        self.state.lock().expect("no panic holds this lock").last_write = self.clock.elapsed();
    }

    fn terminates(&self, who: &str, instance: &str) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        self.catch_up(&mut state, None);
        let Some(machine) = self.cloud.instance(instance) else { return };
        if machine.tags.get(names::CLUSTER_TAG) != self.cluster.get() {
            return self.broken(&mut state, "ledger", format!("{who} ends {instance}, which is another cluster's"));
        }
        if let Some(why) = bill::taken_from_work(&machine, &state.mirror, self.clock.now()) {
            self.broken(&mut state, "busy node", why);
        }
    }

    fn disturbed(&self) {
        let until = self.clock.now() + AFTERMATH;
        self.state.lock().expect("no panic holds this lock").calm = until;
    }
}
