//! Writes that make something: pods, and the ConfigMap with a program's last output.

use super::{Error, MANAGER, during, image};
use crate::context::{ApiError, Ctx, within};
use crate::job::next::ended;
use crate::job::observe::{JobWorld, last_ended};
use crate::job::pod::{Target, attempt, log_name, owner, storage};
use futures::{AsyncRead, AsyncReadExt};
use gpujob_crds::{GpuJob, names};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{Api, LogParams, ObjectMeta, PostParams};
use std::time::Duration;

/// How long reading a log may hold the delivery back.
const LOG_TIMEOUT: Duration = Duration::from_secs(3);
/// How much of a log is kept. A ConfigMap takes 1 MiB.
const LOG_BYTES: usize = 256 * 1024;

/// Reads the whole job: the cache holds no template. `None`: it is gone, or another one of that name.
async fn live(ctx: &Ctx, world: &JobWorld) -> Result<Option<GpuJob>, Error> {
    let api: Api<GpuJob> = Api::namespaced(ctx.client.clone(), &world.job.namespace().unwrap_or_default());
    let job = within(api.get_opt(&world.job.name_any())).await.map_err(during("reading the job"))?;
    Ok(job.filter(|j| j.metadata.uid.as_deref() == Some(world.uid())))
}

/// Makes the attempt's pod, unless a look at the API server shows that the plan was made on an old view.
pub(super) async fn attempt_pod(ctx: &Ctx, world: &JobWorld, target: &Target) -> Result<(), Error> {
    let Some(job) = live(ctx, world).await? else { return Ok(()) };
    let status = job.status.clone().unwrap_or_default();
    let stopped = job.metadata.deletion_timestamp.is_some() || job.spec.suspend == Some(true);
    if ended(&status) || last_ended(&status) >= target.attempt || stopped {
        return Ok(());
    }
    create(ctx, world, attempt::build(&job, target, &image(ctx))?).await
}

/// Makes a pod that speaks to the store.
pub(super) async fn storage_pod(ctx: &Ctx, world: &JobWorld, target: &Target, task: storage::Task, pod_uid: &str) -> Result<(), Error> {
    let Some(job) = live(ctx, world).await? else { return Ok(()) };
    // Only giving the destination back is still worth a pod then.
    if job.metadata.deletion_timestamp.is_some() && !matches!(task, storage::Task::Release { .. }) {
        return Ok(());
    }
    create(ctx, world, storage::build(&job, target, &image(ctx), task, pod_uid)).await
}

async fn create(ctx: &Ctx, world: &JobWorld, pod: Pod) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &world.job.namespace().unwrap_or_default());
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let Err(error) = within(api.create(&params, &pod)).await else { return Ok(()) };
    if let Some(message) = refusal(&error) {
        return Err(Error::Refused { reason: "PodRejected", message });
    }
    if !error.is_conflict() {
        return Err(Error::NotMade(error));
    }
    // Names are deterministic: a pod of that name is ours from an earlier pass, or a stranger that is in the way.
    let there = within(api.get_opt(&pod.name_any())).await.map_err(during("reading a pod"))?;
    match there {
        Some(p) if p.labels().get(names::JOB_UID).map(String::as_str) != Some(world.uid()) => Err(Error::Refused {
            reason: "PodNameTaken",
            message: format!("A pod {} exists that is not this job's: delete it and apply the job again.", pod.name_any()),
        }),
        _ => Ok(()),
    }
}

/// The API server's words when it says no to the pod as such. A full quota, a namespace on its way out, a
/// service account that is applied a moment later, or a missing right of ours is no such thing.
fn refusal(error: &ApiError) -> Option<String> {
    let ApiError::Kube(error) = error else { return None };
    let kube::Error::Api(status) = error.as_ref() else { return None };
    let passing = ["exceeded quota", "being terminated", "looking up service account", "cannot create resource", "is forbidden: User"]
        .iter()
        .any(|w| status.message.contains(w));
    (matches!(status.code, 400 | 403 | 422) && !passing).then(|| status.message.clone())
}

/// Keeps the last output of a program. Best effort: results do not wait for it, and a missing log is said in its place.
pub(super) async fn save_log(ctx: &Ctx, world: &JobWorld, pod: &str, container: Option<&str>) -> Result<(), Error> {
    let namespace = world.job.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    // The API counts lines from the end but bytes from the front: ask for lines, cut bytes here.
    let params = LogParams { container: container.map(str::to_owned), tail_lines: Some(5_000), ..LogParams::default() };
    let read = async {
        let stream = pods.log_stream(pod, &params).await.map_err(|e| e.to_string())?;
        last(std::pin::pin!(stream)).await.map_err(|e| e.to_string())
    };
    let text = match tokio::time::timeout(LOG_TIMEOUT, read).await {
        Ok(Ok(bytes)) => tail(&String::from_utf8_lossy(&bytes)).to_owned(),
        Ok(Err(error)) => format!("(the log could not be read: {error})\n"),
        Err(_) => "(the log could not be read: no answer from the node)\n".to_owned(),
    };
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(log_name(pod)),
            namespace: Some(namespace.clone()),
            labels: Some(
                [
                    (names::MANAGED_BY, names::MANAGER.to_owned()),
                    (names::JOB, world.job.name_any()),
                    (names::JOB_UID, world.uid().to_owned()),
                ]
                .map(|(k, v)| (k.to_owned(), v))
                .into(),
            ),
            owner_references: Some(vec![owner(&world.job)]),
            ..ObjectMeta::default()
        },
        data: Some([("main.log".to_owned(), text)].into()),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    if let Err(error) = within(maps.create(&params, &map)).await
        && !error.is_conflict()
    {
        tracing::warn!(pod, %error, "log not kept");
    }
    Ok(())
}

/// The end of what comes, at least [`LOG_BYTES`] of it. Many jobs may end at once, each with lines as long as it likes: what goes before is
/// not held.
async fn last(mut from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let (mut kept, mut piece) = (vec![], vec![0; 32 << 10]);
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&piece[..n]);
        if kept.len() > 2 * LOG_BYTES {
            kept.drain(..kept.len() - LOG_BYTES - 4);
        }
    }
}

/// The last [`LOG_BYTES`] of a text, from the start of a line.
fn tail(text: &str) -> &str {
    if text.len() <= LOG_BYTES {
        return text;
    }
    let mut start = text.len() - LOG_BYTES;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let rest = &text[start..];
    rest.split_once('\n').map_or(rest, |(_, lines)| lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_long_log_the_end_is_held_and_no_more() {
        let lines: String = (0..100_000).map(|n| format!("line {n} ü\n")).collect();
        let kept = last(lines.as_bytes()).await.expect("memory");
        assert!((LOG_BYTES..=2 * LOG_BYTES).contains(&kept.len()), "{}", kept.len());
        assert_eq!(tail(&String::from_utf8_lossy(&kept)), tail(&lines));
        assert_eq!(last(&b"short\n"[..]).await.expect("memory"), b"short\n");
    }

    #[test]
    fn the_tail_is_bounded_and_starts_with_a_line() {
        assert_eq!(tail("short\n"), "short\n");
        let long = "ü".repeat(100).chars().chain(['\n']).collect::<String>().repeat(2_000);
        let cut = tail(&long);
        assert!(cut.len() <= LOG_BYTES && cut.len() > LOG_BYTES - 300);
        assert_eq!(cut.lines().next().map(|l| l.chars().count()), Some(100));
    }
}
