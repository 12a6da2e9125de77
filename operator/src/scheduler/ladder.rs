//! When a job may leave the spot market.
//!
//! ```text
//!  spot only ---- waited for onDemandAfter.waiting, or none was given ----> either: the cheaper by expected cost,
//!      |                                                                      so on-demand once no spot that costs less is left
//!      '---- interrupted onDemandAfter.interruptions times,
//!            or the deadline is near ------------------------------------> on-demand first, spot if that is refused
//! ```
//! All this only where the pool and the job allow on-demand. Where no spot offer fits at all, there is nothing to wait for.

use super::cost::Hurry;
use gpujob_crds::{GpuJob, Market};
use jiff::{SignedDuration, Timestamp};

/// Seconds before the end of `queueDeadlineSeconds` at which only what is certain will do: a boot, and one more if it fails.
/// Of a short deadline the last half.
const QUEUE_NEAR: i64 = 900;

/// What a job may buy now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Spot; on-demand only where no spot offer fits.
    Spot,
    /// Whatever is expected to cost less.
    Either,
    /// On-demand, and spot only when every on-demand offer was refused.
    OnDemandFirst,
}

/// Where a job stands, and when that changes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ladder {
    pub(super) step: Step,
    pub(super) hurry: Hurry,
    /// When a later step begins, if time alone brings it.
    pub(super) next: Option<Timestamp>,
    /// What on-demand waits for, for people.
    pub(super) note: Option<String>,
}

/// Where this job stands. `since`: when its wait for this attempt began.
pub(super) fn ladder(job: &GpuJob, since: Timestamp, now: Timestamp) -> Ladder {
    let spec = &job.spec;
    let created = job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let started = job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    // A run that is interrupted begins anew: when half of its time is gone, another loss cannot be made good.
    let deadline = match (started, spec.queue_deadline_seconds, spec.active_deadline_seconds) {
        (Some(start), _, Some(seconds)) => Some((later(start, seconds), seconds / 2)),
        (None, Some(seconds), _) => Some((later(created, seconds), (seconds / 2).min(QUEUE_NEAR))),
        _ => None,
    };
    let hurry = deadline.map_or(Hurry::NONE, |(end, _)| Hurry::with(end.duration_since(now).as_secs()));
    let near = deadline.map(|(end, near)| later(end, -near));
    let mut ladder = Ladder { step: Step::Either, hurry, next: near.filter(|at| *at > now), note: None };
    if spec.markets.len() == 1 && spec.markets[0] == Market::Spot {
        return Ladder { step: Step::Spot, next: None, ..ladder };
    }
    if near.is_some_and(|at| at <= now) {
        return Ladder { step: Step::OnDemandFirst, ..ladder };
    }
    let Some(after) = &spec.on_demand_after else { return ladder };
    let interruptions = job.status.as_ref().and_then(|s| s.interruptions).unwrap_or(0);
    if after.interruptions.is_some_and(|most| interruptions >= most) {
        return Ladder { step: Step::OnDemandFirst, ..ladder };
    }
    let opens = after.waiting.map(|s| later(since, s.0));
    if opens.is_some_and(|at| at <= now) {
        return ladder;
    }
    ladder.step = Step::Spot;
    ladder.next = [ladder.next, opens].into_iter().flatten().min();
    ladder.note = Some(match (ladder.next, after.interruptions) {
        (Some(at), _) => format!("on-demand is tried from {}", at.strftime("%H:%M:%SZ")),
        (None, Some(most)) => format!("on-demand is tried after {most} interruptions, {interruptions} so far (onDemandAfter)"),
        (None, None) => "on-demand is not tried (onDemandAfter)".to_owned(),
    });
    ladder
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::duration::Seconds;
    use gpujob_crds::job::OnDemandAfter;
    use gpujob_crds::{GpuJobSpec, GpuJobStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(10_000 + s).expect("time")
    }

    /// Created at 0.
    fn job(spec: GpuJobSpec, status: GpuJobStatus) -> GpuJob {
        let mut job = GpuJob::new("j", spec);
        job.metadata.creation_timestamp = Some(Time(at(0)));
        job.status = Some(status);
        job
    }

    fn after(interruptions: Option<i32>, waiting: Option<i64>) -> GpuJobSpec {
        let after = OnDemandAfter { interruptions, waiting: waiting.map(Seconds) };
        GpuJobSpec { on_demand_after: Some(after), ..Default::default() }
    }

    fn interrupted(n: i32) -> GpuJobStatus {
        GpuJobStatus { interruptions: Some(n), ..Default::default() }
    }

    #[test]
    fn steps() {
        let plain = || GpuJobSpec::default();
        let queue = |s| GpuJobSpec { queue_deadline_seconds: Some(s), ..Default::default() };
        let started = GpuJobStatus { start_time: Some(Time(at(0))), ..Default::default() };
        let active = GpuJobSpec { active_deadline_seconds: Some(7200), ..Default::default() };
        let only_spot = GpuJobSpec { markets: vec![Market::Spot], queue_deadline_seconds: Some(60), ..Default::default() };
        for (what, spec, status, now, step, next) in [
            ("nothing said", plain(), interrupted(0), 0, Step::Either, None),
            ("interrupted, nothing said", plain(), interrupted(9), 0, Step::Either, None),
            ("not interrupted enough", after(Some(3), None), interrupted(2), 9999, Step::Spot, None),
            ("interrupted enough", after(Some(3), None), interrupted(3), 0, Step::OnDemandFirst, None),
            ("not waited enough", after(None, Some(600)), interrupted(9), 599, Step::Spot, Some(600)),
            ("waited enough", after(None, Some(600)), interrupted(0), 600, Step::Either, None),
            ("whichever comes first", after(Some(1), Some(600)), interrupted(1), 0, Step::OnDemandFirst, None),
            ("waiting for nothing", after(None, Some(0)), interrupted(0), 0, Step::Either, None),
            ("a short queue: the last half", queue(600), interrupted(0), 299, Step::Either, Some(300)),
            ("near its end", queue(600), interrupted(0), 300, Step::OnDemandFirst, None),
            ("a long queue: the last 15 minutes", queue(86_400), interrupted(0), 85_499, Step::Either, Some(85_500)),
            ("half of the run's time is left", active.clone(), started.clone(), 3599, Step::Either, Some(3600)),
            ("half of the run's time is gone", active.clone(), started, 3600, Step::OnDemandFirst, None),
            ("the run's time does not count before its start", active, interrupted(0), 99_999, Step::Either, None),
            ("spot alone, whatever the deadline", only_spot, interrupted(0), 59, Step::Spot, None),
        ] {
            let found = ladder(&job(spec, status), at(0), at(now));
            assert_eq!((found.step, found.next), (step, next.map(at)), "{what}");
        }
    }

    #[test]
    fn a_deadline_comes_before_a_longer_patience() {
        let spec = GpuJobSpec { queue_deadline_seconds: Some(600), ..after(None, Some(3600)) };
        let found = ladder(&job(spec, interrupted(0)), at(0), at(10));
        assert_eq!((found.step, found.next), (Step::Spot, Some(at(300))));
        assert!(found.note.is_some_and(|n| n.contains("on-demand is tried from")));
    }

    #[test]
    fn each_attempt_waits_anew() {
        let found = ladder(&job(after(None, Some(600)), interrupted(1)), at(5000), at(5100));
        assert_eq!((found.step, found.next), (Step::Spot, Some(at(5600))));
    }
}
