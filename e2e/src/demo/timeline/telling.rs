//! What each sight adds to the story.

use super::{Row, Step, Timeline, bytes, count};
use crate::demo::sight::Books;
use gpujob_crds::conditions::{find, is_true, job as job_condition, node as node_condition};
use gpujob_crds::{GpuJob, GpuNode, names};
use gpujob_transfer::receipt::Receipt;
use k8s_openapi::api::core::v1::{ContainerState, Node, Pod};
use kube::ResourceExt;

/// The timeline with the rows that this sight adds.
pub(super) struct Rows<'a> {
    pub(super) line: &'a mut Timeline,
    pub(super) at: f64,
    pub(super) rows: Vec<Row>,
}

impl Rows<'_> {
    /// A step is reached; only the first time counts.
    fn reach(&mut self, step: Step, at: f64, what: impl FnOnce() -> String) {
        if let std::collections::btree_map::Entry::Vacant(first) = self.line.moments.entry(step) {
            first.insert(at);
            self.say(at, step.word(), what());
        }
    }

    /// What is learned late is told in its turn: the moments keep the true times.
    fn say(&mut self, at: f64, word: &'static str, what: String) {
        let at = at.max(self.line.told);
        self.line.told = at;
        self.rows.push(Row { at, dollars: self.line.dollars, word, what });
    }

    pub(super) fn job(&mut self, job: &GpuJob) {
        self.line.job = Some(job.clone());
        self.reach(Step::Apply, self.at, || format!("gpujob/{} asks for {}", job.name_any(), count(job.spec.gpu.count.into(), "GPU")));
        let Some(status) = &job.status else { return };
        if let Some(waits) = find(&status.conditions, job_condition::ASSIGNED).filter(|condition| condition.status == "False")
            && status.waiting.as_ref().is_some_and(|waiting| !waiting.tried.is_empty())
            && self.line.waiting.as_ref() != Some(&waits.message)
            && self.line.verdict().is_none()
        {
            self.line.waiting = Some(waits.message.clone());
            self.say(self.at, "waits", waits.message.clone());
        }
        match self.line.verdict() {
            Some(true) => {
                let receipt = status.receipt.clone().unwrap_or_default();
                self.reach(Step::Delivery, self.at, || {
                    format!("{} ({}) and a manifest are stored; Succeeded", count(receipt.files, "file"), bytes(receipt.bytes))
                });
            }
            Some(false) => {
                let condition = find(&status.conditions, job_condition::SUCCEEDED);
                let what = condition.map(|c| format!("{}: {}", c.reason, c.message)).unwrap_or_default();
                self.reach(Step::Delivery, self.at, || format!("Failed, {what}"));
            }
            None => {}
        }
    }

    pub(super) fn intent(&mut self, node: &GpuNode) {
        let uid = self.line.job.as_ref().and_then(ResourceExt::uid);
        let ours = self.line.node.as_ref().is_some_and(|known| known.name_any() == node.name_any());
        if !ours && uid.is_none_or(|uid| node.reservation_of(&uid).is_none()) {
            return;
        }
        self.line.node = Some(node.clone());
        if let Some(best) = node.spec.launch.offers.first() {
            let market = node.spec.launch.market.map(|market| market.to_string()).unwrap_or_default();
            let accepted = match node.spec.launch.offers.len() {
                1 => String::new(),
                several => format!("; {several} offers near it will do as well"),
            };
            self.reach(Step::Offer, self.at, || {
                format!("{market} {} in {} at ${} an hour{accepted}", best.instance_type, best.zone, best.price_per_hour)
            });
        }
        let Some(status) = &node.status else { return };
        if let Some(instance) = &status.instance {
            let at = self.line.launch_call.unwrap_or(self.at);
            self.reach(Step::Launch, at, || {
                format!(
                    "{}: {} {} in {} at ${} an hour",
                    instance.id, instance.market, instance.instance_type, instance.zone, instance.price_per_hour
                )
            });
        }
        if is_true(&status.conditions, node_condition::INITIALIZED) {
            let gpus = status.instance.as_ref().map_or(0, |instance| instance.gpus);
            self.reach(Step::Gpu, self.at, || {
                format!("{} on {}", count(gpus.into(), "GPU"), status.node_name.as_deref().unwrap_or("its node"))
            });
        }
        if status.idle_since.is_some() && self.line.verdict().is_some() {
            self.reach(Step::Idle, self.at, || "the node has nothing to do; its idle window begins".into());
        }
    }

    pub(super) fn intent_gone(&mut self, name: &str) {
        if self.line.node.as_ref().is_some_and(|known| known.name_any() == name) {
            self.line.released = true;
        }
    }

    pub(super) fn pod(&mut self, pod: &Pod) {
        if pod.labels().get(names::ROLE).map(String::as_str) != Some("attempt") {
            return;
        }
        let Some(status) = &pod.status else { return };
        let ended = |state: Option<&ContainerState>| state.and_then(|state| state.terminated.clone());
        for container in status.init_container_statuses.iter().flatten() {
            if let Some(end) = ended(container.state.as_ref()).filter(|end| container.name == "gpujob-fetch" && end.exit_code == 0) {
                let receipt: Option<Receipt> = end.message.as_deref().and_then(|text| serde_json::from_str(text).ok());
                self.reach(Step::Fetch, self.at, || {
                    let moved = receipt.map(|r| format!("{} ({})", count(r.files as i64, "input file"), bytes(r.bytes as i64)));
                    format!("image pulled, {} checked", moved.unwrap_or_else(|| "inputs".into()))
                });
            }
        }
        for container in status.container_statuses.iter().flatten() {
            let state = container.state.as_ref();
            if state.is_some_and(|state| state.running.is_some() || state.terminated.as_ref().is_some_and(|end| end.started_at.is_some())) {
                self.reach(Step::Run, self.at, || {
                    format!("{} runs on {}", container.image, status.host_ip.as_deref().unwrap_or("its node"))
                });
            }
            if let Some(end) = ended(state) {
                self.reach(Step::Exit, self.at, || format!("exit code {}", end.exit_code));
            }
        }
    }

    pub(super) fn node(&mut self, node: &Node) {
        let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or_default();
        if let Some(id) = self.line.instance()
            && provider.ends_with(id)
        {
            self.reach(Step::Join, self.at, || format!("{} has joined the cluster", node.name_any()));
        }
    }

    pub(super) fn books(&mut self, books: &Books) {
        let since = self.line.moments.get(&Step::Apply).copied().unwrap_or(f64::MAX);
        for call in &books.calls {
            let at = call["at"].as_f64().filter(|at| *at >= since);
            match call["action"].as_str() {
                Some("CreateFleet") if self.line.launch_call.is_none() => self.line.launch_call = at,
                Some("TerminateInstances") => self.line.terminate_call = at.or(self.line.terminate_call),
                _ => {}
            }
        }
        let Some(id) = self.line.instance().map(str::to_owned) else { return };
        if let Some(row) = books.bill.iter().find(|row| row["id"] == id.as_str()) {
            self.line.dollars = row["cost"].as_f64().unwrap_or_default();
            self.line.bill = Some(row.clone());
        }
        let Some(instance) = books.instances.iter().find(|instance| instance["id"] == id.as_str()) else { return };
        if instance["running"].is_number() {
            self.reach(Step::Boot, self.at, || "EC2 says running; the bill runs too (60 s at least)".into());
        }
        if instance["state"] == "terminated" {
            let reason = instance["reason"].as_str().unwrap_or("no reason").to_owned();
            self.reach(Step::Terminate, self.at, || format!("EC2 says terminated ({reason})"));
        }
    }
}
