//! The conformance cases, put to FakeKube. `e2e/tests/lab/conformance.rs` puts the same ones to a real API server.
//!
//! With `GPUJOB_CONFORMANCE=<group>` they go to the cluster of `KUBECONFIG` instead, where copies of our CRDs under that group are
//! installed and no operator watches it.

#![allow(missing_docs, clippy::disallowed_methods)]

use gpujob_sim::kube::{FakeKube, conformance};
use libtest_mimic::{Arguments, Failed, Trial};
use std::sync::Arc;
use tokio::runtime::Builder;

struct Fixed;

impl gpujob_operator::clock::Clock for Fixed {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_767_225_600).expect("a time")
    }
}

fn put(number: usize, case: &conformance::Case) -> Result<(), Failed> {
    let done = match std::env::var("GPUJOB_CONFORMANCE") {
        Ok(group) => Builder::new_current_thread().enable_all().build()?.block_on(async {
            let client = kube::Client::try_default().await?;
            conformance::run(&client, &group, &format!("conformance-{number}"), case).await
        }),
        Err(_) => Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
            let kube = FakeKube::new(Arc::new(Fixed));
            let controllers = kube.clone();
            tokio::spawn(async move { controllers.controllers().await });
            conformance::run(&kube.client(), gpujob_crds::GROUP, "case", case).await
        }),
    };
    done.map_err(|error| Failed::from(format!("{error:#}")))
}

fn main() {
    let cases = conformance::all().into_iter().enumerate();
    let trials = cases.map(|(number, case)| Trial::test(case.name.clone(), move || put(number, &case))).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
