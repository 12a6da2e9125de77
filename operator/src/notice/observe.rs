//! Which sources are worth reading, and what a notice may concern.

use crate::context::Ctx;
use crate::watch::sorted;
use gpujob_crds::{GpuNode, GpuPool, Market, names};
use gpujob_provider_core::{NoticeSource, Scope};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What can be read for notices: where, and how.
pub(super) type Source = (Scope, NoticeSource);

/// What the plan looks at.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// The GpuNodes of the scope, by name.
    pub(super) nodes: Vec<Arc<GpuNode>>,
    /// The pods of attempts that are reserved on nodes of the scope, by namespace and name.
    pub(super) pods: Vec<Arc<Pod>>,
}

/// The sources of all scopes that hold spot instances: the queue that a pool names, and for the rest the provider's own answer.
pub(super) fn sources(nodes: &[Arc<GpuNode>], pools: &[Arc<GpuPool>]) -> BTreeSet<Source> {
    let may_be_taken = |n: &&Arc<GpuNode>| {
        n.metadata.deletion_timestamp.is_none()
            && n.spec.launch.market == Some(Market::Spot)
            && n.status.as_ref().is_some_and(|s| s.instance.is_some() && s.interrupted.is_none())
    };
    let source = |node: &Arc<GpuNode>| {
        let pool = pools.iter().find(|p| p.metadata.uid.as_deref() == Some(&node.spec.pool_uid));
        let queue = pool.and_then(|p| p.spec.interruption_queue());
        let source = queue.map_or(NoticeSource::Poll, |url| NoticeSource::Queue(url.to_owned()));
        (Scope { provider: node.spec.provider.clone(), region: node.spec.region.clone() }, source)
    };
    nodes.iter().filter(may_be_taken).map(source).collect()
}

pub(super) fn observe(ctx: &Ctx, scope: &Scope) -> World {
    let nodes: Vec<_> =
        sorted(&ctx.stores.nodes).into_iter().filter(|n| n.spec.provider == scope.provider && n.spec.region == scope.region).collect();
    let mut pods: Vec<Arc<Pod>> = nodes
        .iter()
        .flat_map(|n| n.reservations())
        .flat_map(|r| {
            let attempt = r.attempt.to_string();
            let mine = move |p: &Arc<Pod>| {
                let label = |key| p.labels().get(key).map(String::as_str);
                label(names::ROLE) == Some("attempt") && label(names::ATTEMPT) == Some(attempt.as_str())
            };
            ctx.stores.pods_of(&r.job_uid).into_iter().filter(mine)
        })
        .collect();
    pods.sort_by_key(|p| (p.namespace(), p.name_any()));
    World { nodes, pods }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::plan::tests::node;
    use gpujob_crds::pool::AwsPool;

    fn pool(uid: &str, queue: Option<&str>) -> Arc<GpuPool> {
        let mut pool = GpuPool::new(uid, Default::default());
        pool.metadata.uid = Some(uid.into());
        pool.spec.aws = Some(AwsPool { interruption_queue: queue.map(str::to_owned), ..Default::default() });
        Arc::new(pool)
    }

    fn of(pool: &str, change: fn(&mut GpuNode)) -> Arc<GpuNode> {
        let mut node = (*node("gn", Some("i-1"))).clone();
        node.spec.pool_uid = pool.into();
        change(&mut node);
        Arc::new(node)
    }

    #[test]
    fn only_what_could_be_taken_is_worth_a_question() {
        let pools = [pool("plain", None), pool("queue", Some("https://q/1"))];
        let scope = || Scope { provider: "aws".into(), region: "r".into() };
        let queue = || (scope(), NoticeSource::Queue("https://q/1".into()));
        let poll = || (scope(), NoticeSource::Poll);
        let cases: [(Vec<Arc<GpuNode>>, Vec<Source>); 7] = [
            (vec![], vec![]),
            (vec![of("plain", |_| {})], vec![poll()]),
            (vec![of("queue", |_| {}), of("queue", |_| {})], vec![queue()]),
            (vec![of("queue", |_| {}), of("plain", |_| {}), of("a pool that is gone", |_| {})], vec![poll(), queue()]),
            (vec![of("plain", |n| n.spec.launch.market = Some(Market::OnDemand))], vec![]),
            (vec![of("plain", |n| n.status.as_mut().expect("set").instance = None)], vec![]),
            (vec![of("plain", |n| n.metadata.deletion_timestamp = Some(crate::notice::plan::tests::time(1)))], vec![]),
        ];
        for (nodes, expected) in cases {
            assert_eq!(sources(&nodes, &pools).into_iter().collect::<Vec<_>>(), expected);
        }
    }
}
