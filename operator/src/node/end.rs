//! The end of an instance, told by a task of its own: a provider that hangs delays no other node, and no write.

use super::observe::{NodeWorld, scope};
use super::plan::never_joined;
use super::send::Launches;
use crate::context::Ctx;
use crate::events::{self, LONGEST_NOTE};
use gpujob_crds::{GpuJob, GpuNode};
use gpujob_provider_core::{MachineProvider, Terminated};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use std::time::Duration;

/// How long the console output of an instance that never joined may hold its end back.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells an instance to end, unless that is on its way or was just done.
pub(super) fn terminate(ctx: &Arc<Ctx>, launches: &Arc<Launches>, world: &NodeWorld, id: &str) {
    let node = world.node.clone();
    if !launches.may_end(&node, id, ctx.clock.now()) {
        return;
    }
    let (ctx, launches, id, console) = (ctx.clone(), launches.clone(), id.to_owned(), never_joined(world));
    tokio::spawn(async move {
        let told = tell(&ctx, &node, &id, console).await;
        match &told {
            Ok(answer) => tracing::info!(node = node.name_any(), id, gone = *answer == Terminated::Gone, "terminating"),
            // The plan comes again within seconds, and with it the next try.
            Err(error) => tracing::warn!(node = node.name_any(), id, class = error.class.reason(), %error, "terminating"),
        }
        launches.told(&node, &id, told.is_ok().then(|| ctx.clock.now()));
        ctx.cloud_view.refresh();
    });
}

async fn tell(ctx: &Ctx, node: &GpuNode, id: &str, console: bool) -> Result<Terminated, gpujob_provider_core::ProviderError> {
    let provider = ctx.clouds.machines(&scope(node)).await?;
    if console {
        keep_console(ctx, provider.as_ref(), node, id).await;
    }
    provider.terminate(id).await
}

/// Keeps what an instance that never joined last said, where its GpuNode and its jobs are looked for: after its end nobody can ask.
async fn keep_console(ctx: &Ctx, provider: &dyn MachineProvider, node: &GpuNode, id: &str) {
    let text = match tokio::time::timeout(CONSOLE_TIMEOUT, provider.console(id)).await {
        Ok(Ok(Some(text))) if !text.trim().is_empty() => text,
        Ok(Ok(_)) => return tracing::info!(node = node.name_any(), id, "it never joined, and its console says nothing"),
        Ok(Err(error)) => return tracing::info!(node = node.name_any(), id, %error, "it never joined, and its console cannot be read"),
        Err(_) => return tracing::info!(node = node.name_any(), id, "it never joined, and its console is not answered for"),
    };
    let note = note(id, &text);
    // Telling must not hold the end back either.
    let (recorder, node) = (ctx.recorder.clone(), node.clone());
    tokio::spawn(async move {
        for about in std::iter::once(node.object_ref(&())).chain(jobs(&node)) {
            events::tell(&recorder, &about, EventType::Warning, "NeverJoined", "Launch", &note).await;
        }
    });
}

/// The end of the console's text: what went wrong is said last.
fn note(id: &str, text: &str) -> String {
    let start = format!("{id} did not join the cluster. The end of its console: ");
    let text = text.trim_end();
    let mut from = (text.len() + start.len()).saturating_sub(LONGEST_NOTE);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    start + &text[from..]
}

/// The jobs that it was for.
fn jobs(node: &GpuNode) -> Vec<ObjectReference> {
    let mut all: Vec<_> = node.spec.launched_for.iter().chain(node.reservations()).collect();
    all.sort();
    all.dedup_by(|a, b| a.job_uid == b.job_uid);
    let reference = |r: &gpujob_crds::Reservation| ObjectReference {
        api_version: Some(GpuJob::api_version(&()).into_owned()),
        kind: Some(GpuJob::kind(&()).into_owned()),
        namespace: Some(r.namespace.clone()),
        name: Some(r.name.clone()),
        uid: Some(r.job_uid.clone()),
        ..ObjectReference::default()
    };
    all.into_iter().map(reference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_console_fits_a_note() {
        assert!(note("i-1", "ok\n\n").ends_with("console: ok"));
        let long = note("i-1", &format!("{}kernel panic", "ü".repeat(2000)));
        assert!(long.len() <= LONGEST_NOTE && long.len() > LONGEST_NOTE - 4 && long.ends_with("kernel panic"), "{}", long.len());
        assert!(long.starts_with("i-1 did not join"));
    }

    #[test]
    fn every_job_that_had_a_place_is_told_once() {
        let reservation = |uid: &str| gpujob_crds::Reservation { job_uid: uid.into(), name: uid.into(), ..Default::default() };
        let mut node = GpuNode::new("n", Default::default());
        node.spec.launched_for = vec![reservation("a")];
        let status = gpujob_crds::GpuNodeStatus { assignments: Some(vec![reservation("b"), reservation("a")]), ..Default::default() };
        node.status = Some(status);
        assert_eq!(jobs(&node).into_iter().filter_map(|r| r.uid).collect::<Vec<_>>(), ["a", "b"]);
    }
}
