//! The operator's own share of the time: what is left when booting, pulling and computing are taken away.

use super::timeline::{Step, Timeline};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Share {
    /// From where to where.
    pub(super) what: &'static str,
    /// Seconds.
    pub(super) seconds: f64,
}

/// All figures that can be told. `exit`: when the program wrote its last line, Unix seconds.
pub(super) fn shares(line: &Timeline, exit: Option<f64>) -> Vec<Share> {
    let moment = |step: Step| line.moments.get(&step).copied();
    let exit = exit.or_else(|| moment(Step::Exit));
    let pairs = [
        ("apply to CreateFleet", moment(Step::Apply), moment(Step::Launch)),
        ("the program's end to Succeeded", exit, moment(Step::Delivery)),
        ("idle (the pool's window is in it) to TerminateInstances", moment(Step::Idle), line.terminate_call),
    ];
    let told = pairs.into_iter().filter_map(|(what, from, to)| Some(Share { what, seconds: to? - from? }));
    told.collect()
}

/// When a container wrote its last line, Unix seconds: to the millisecond, where the pod's status has whole seconds only.
pub async fn exit_moment(pods: &Api<Pod>, pod: &str, container: &str) -> Option<f64> {
    let parameters = LogParams { container: Some(container.to_owned()), timestamps: true, tail_lines: Some(1), ..LogParams::default() };
    let text = pods.logs(pod, &parameters).await.ok()?;
    let stamp: jiff::Timestamp = text.split_whitespace().next()?.parse().ok()?;
    Some(stamp.as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_where_both_ends_are_known() {
        let mut line = Timeline::default();
        line.moments.extend([(Step::Apply, 10.0), (Step::Launch, 10.05), (Step::Exit, 41.0)]);
        assert_eq!(shares(&line, None).len(), 1);
        line.moments.insert(Step::Delivery, 42.0);
        let told = shares(&line, Some(40.0));
        assert!((told[0].seconds - 0.05).abs() < 1e-9 && (told[1].seconds - 2.0).abs() < 1e-9, "{told:?}");
    }
}
