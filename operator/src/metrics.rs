//! What is counted, and how it is written: OpenMetrics text, base units, bounded labels, never an object's name.

use crate::requests::{Asked, Requests};
use gpujob_provider_core::ProviderError;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Upper bounds in seconds of the provider's answer times: EC2 describes take 0.05 to 1 s, launches 1 to 5 s.
const BOUNDS: [f64; 8] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Debug, Default, Clone)]
struct Histogram {
    buckets: [u64; 8],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct Values {
    calls: BTreeMap<(String, &'static str, &'static str), Histogram>,
    looks: BTreeMap<(&'static str, &'static str), u64>,
    orphans: BTreeMap<String, u64>,
    jobs: BTreeMap<&'static str, u64>,
    given_up: BTreeMap<[String; 4], u64>,
}

/// The most rows of a counter whose labels come from a cloud: images change for years.
const ROWS: usize = 500;

/// A value that is read at the moment of asking: its name, its help, and its values by label text.
pub type Gauge = (&'static str, &'static str, Vec<(String, f64)>);

/// The process's counters.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Values>);

/// A call to a provider, being timed.
#[derive(Debug)]
#[must_use]
pub struct Call<'a> {
    metrics: &'a Metrics,
    provider: String,
    operation: &'static str,
    start: Instant,
}

impl Call<'_> {
    /// Counts the answer and hands it on.
    ///
    /// # Errors
    /// The answer's own.
    pub fn done<T>(self, answer: Result<T, ProviderError>) -> Result<T, ProviderError> {
        let outcome = answer.as_ref().map_or_else(|e| e.class.reason(), |_| "ok");
        let took = self.start.elapsed();
        let mut values = self.metrics.0.lock().expect("no panic holds this lock");
        values.calls.entry((self.provider, self.operation, outcome)).or_default().observe(took);
        drop(values);
        answer
    }
}

impl Histogram {
    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }
}

impl Metrics {
    /// Starts timing a call.
    pub fn provider_call(&self, provider: &str, operation: &'static str) -> Call<'_> {
        Call { metrics: self, provider: provider.to_owned(), operation, start: Instant::now() }
    }

    /// An instance was found that nobody owns.
    pub fn orphan_found(&self, provider: &str) {
        *self.0.lock().expect("no panic holds this lock").orphans.entry(provider.to_owned()).or_default() += 1;
    }

    /// A controller looked at an object.
    pub fn looked(&self, controller: &'static str, outcome: &'static str) {
        *self.0.lock().expect("no panic holds this lock").looks.entry((controller, outcome)).or_default() += 1;
    }

    /// An instance was given back because it did not become what was bought: it never joined (`join`), its GPUs never came
    /// (`gpu`), or its Node fell silent (`silent`).
    pub fn gave_up(&self, step: &str, image: &str, instance_type: &str, zone: &str) {
        let rows = &mut self.0.lock().expect("no panic holds this lock").given_up;
        let mut row = [step, image, instance_type, zone].map(str::to_owned);
        if rows.len() >= ROWS && !rows.contains_key(&row) {
            row = [step, "other", "other", "other"].map(str::to_owned);
        }
        *rows.entry(row).or_default() += 1;
    }

    /// A job ended.
    pub fn job_ended(&self, outcome: &'static str) {
        *self.0.lock().expect("no panic holds this lock").jobs.entry(outcome).or_default() += 1;
    }

    /// All of it as OpenMetrics text.
    #[must_use]
    pub fn render(&self, gauges: &[Gauge], requests: &Requests) -> String {
        let values = self.0.lock().expect("no panic holds this lock");
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = out.write_fmt(text);
            out.push('\n');
        };
        for (name, help, rows) in gauges {
            line(format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
            for (labels, value) in rows {
                line(format_args!("{name}{{{labels}}} {value}"));
            }
        }
        line(format_args!(
            "# HELP gpujob_provider_call_seconds Time of calls to providers, by operation and outcome.\n# TYPE gpujob_provider_call_seconds histogram"
        ));
        for ((provider, operation, outcome), h) in &values.calls {
            let labels = format!("provider=\"{provider}\",operation=\"{operation}\",outcome=\"{outcome}\"");
            for (bound, count) in BOUNDS.iter().zip(h.buckets) {
                line(format_args!("gpujob_provider_call_seconds_bucket{{{labels},le=\"{bound}\"}} {count}"));
            }
            line(format_args!("gpujob_provider_call_seconds_bucket{{{labels},le=\"+Inf\"}} {}", h.count));
            line(format_args!(
                "gpujob_provider_call_seconds_count{{{labels}}} {}\ngpujob_provider_call_seconds_sum{{{labels}}} {}",
                h.count, h.sum
            ));
        }
        line(format_args!("# HELP gpujob_reconcile Looks at objects, by controller and outcome.\n# TYPE gpujob_reconcile counter"));
        for ((controller, outcome), n) in &values.looks {
            line(format_args!("gpujob_reconcile_total{{controller=\"{controller}\",outcome=\"{outcome}\"}} {n}"));
        }
        line(format_args!("# HELP gpujob_orphans_found Instances found that no GpuNode owns.\n# TYPE gpujob_orphans_found counter"));
        for (provider, n) in &values.orphans {
            line(format_args!("gpujob_orphans_found_total{{provider=\"{provider}\"}} {n}"));
        }
        line(format_args!("# HELP gpujob_jobs_ended GpuJobs that ended, by outcome.\n# TYPE gpujob_jobs_ended counter"));
        for (outcome, n) in &values.jobs {
            line(format_args!("gpujob_jobs_ended_total{{outcome=\"{outcome}\"}} {n}"));
        }
        line(format_args!(
            "# HELP gpujob_nodes_given_up Instances given back because they did not become what was bought.\n# TYPE gpujob_nodes_given_up counter"
        ));
        for ([step, image, instance_type, zone], n) in &values.given_up {
            let labels = format!("step=\"{step}\",image=\"{image}\",type=\"{instance_type}\",zone=\"{zone}\"");
            line(format_args!("gpujob_nodes_given_up_total{{{labels}}} {n}"));
        }
        line(format_args!(
            "# HELP gpujob_api_requests Requests to the API server, by verb, resource and HTTP status (0: no answer).\n# TYPE gpujob_api_requests counter"
        ));
        for (Asked { verb, resource, code }, n) in requests.rows() {
            line(format_args!("gpujob_api_requests_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {n}"));
        }
        out.push_str("# EOF\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_provider_core::ErrorClass;

    #[tokio::test(start_paused = true)]
    async fn counts_calls_by_outcome() {
        let metrics = Metrics::default();
        let call = metrics.provider_call("aws", "launch");
        tokio::time::advance(Duration::from_millis(300)).await;
        let _ = call.done::<()>(Err(ProviderError::new(ErrorClass::Capacity, "none")));
        let text = metrics.render(&[("gpujob_leader", "Whether this replica leads.", vec![(String::new(), 1.0)])], &Requests::default());
        assert!(
            text.contains("gpujob_provider_call_seconds_bucket{provider=\"aws\",operation=\"launch\",outcome=\"NoCapacity\",le=\"0.5\"} 1")
        );
        assert!(text.contains("outcome=\"NoCapacity\",le=\"0.25\"} 0"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn labels_from_a_cloud_stay_bounded() {
        let metrics = Metrics::default();
        for n in 0..600 {
            metrics.gave_up("join", &format!("ami-{n}"), "g6.xlarge", "a");
        }
        let text = metrics.render(&[], &Default::default());
        assert!(text.contains("gpujob_nodes_given_up_total{step=\"join\",image=\"ami-0\",type=\"g6.xlarge\",zone=\"a\"} 1"));
        assert!(text.contains("gpujob_nodes_given_up_total{step=\"join\",image=\"other\",type=\"other\",zone=\"other\"} 100"));
    }
}
