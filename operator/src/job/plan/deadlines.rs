//! The job's own clocks: waiting for the first start, running, and living on after its end.

use super::attempt::DEADLINE;
use super::draft::Draft;
use super::outcome::{Seen, look};
use super::{Action, ending, release};
use crate::job::facts::Role;
use gpujob_crds::job_status::Outcome;
use gpujob_crds::names;
use kube::ResourceExt;

/// Ends what has run out of time.
pub(super) fn run(d: &mut Draft<'_>) {
    let spec = &d.world.job.spec;
    let created = d.world.job.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let start = d.status.start_time.as_ref().map(|t| t.0);
    if let (None, Some(limit), Some(created)) = (start, spec.queue_deadline_seconds, created)
        && d.due(created, limit)
        && !started(d)
    {
        let message = format!("The program had not started within queueDeadlineSeconds ({limit}).");
        ending::end_attempt(d, Outcome::Failed, "QueueDeadlineExceeded", &message);
        return ending::end_job(d, false, "QueueDeadlineExceeded", &message);
    }
    if let (Some(start), Some(limit)) = (start, spec.active_deadline_seconds)
        && d.due(start, limit)
    {
        active(d, limit);
    }
}

/// Whether the program runs or has run, though the status does not say so yet.
fn started(d: &Draft<'_>) -> bool {
    seen(d).is_some_and(|s| matches!(s, Seen::Running(_) | Seen::Exited(_) | Seen::AlreadyCommitted(_)))
}

fn seen(d: &Draft<'_>) -> Option<Seen> {
    let a = d.open()?;
    let pod = d.world.pod(a.number, Role::Attempt)?;
    Some(look(pod, a.node.as_ref().and_then(|n| d.world.node(n))))
}

fn active(d: &mut Draft<'_>, limit: i64) {
    let running = matches!(seen(d), Some(Seen::Running(_)));
    let ended = matches!(seen(d), Some(Seen::Exited(_) | Seen::AlreadyCommitted(_)));
    match d.open() {
        // It has ended, or is being stopped: delivery has a deadline of its own.
        Some(a) if a.exit_code.is_some() || a.disruption.is_some() || ended => {}
        Some(_) if running => {
            if let Some(open) = d.open_mut() {
                open.disruption = Some(DEADLINE.into());
            }
        }
        _ => {
            let message = format!("activeDeadlineSeconds ({limit}) have passed since the program first started.");
            ending::end_attempt(d, Outcome::Failed, DEADLINE, &message);
            ending::end_job(d, false, DEADLINE, &message);
        }
    }
}

/// Deletes a job that has outlived its end long enough, once it holds nothing any more.
pub(super) fn time_to_live(d: &mut Draft<'_>) {
    let job = &d.world.job;
    let (Some(ttl), Some(end)) = (job.spec.ttl_seconds_after_finished, d.status.completion_time.clone()) else { return };
    let free = !job.finalizers().iter().any(|f| f == names::JOB_FINALIZER);
    if d.due(end.0, i64::from(ttl)) && free && !release::owed(d) && !d.world.deleting() {
        d.act(Action::DeleteJob);
    }
}
