//! What the simulator's API server is held to, put to a real one.

use crate::api::{copied, uncopied};
use crate::session::Given;
use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use gpujob_sim::kube::conformance;

/// No operator watches it: the cases have their objects to themselves. After `gpujob.dev` by name, as [`crate::api`] tells why.
const GROUP: &str = "test-conformance.gpujob.test";

/// Cases wait for each other's controllers more than they load the machine.
const SIDE_BY_SIDE: usize = 4;

pub(crate) async fn cases(given: Given) -> Result<()> {
    copied(&given, GROUP).await?;
    let client = given.client.clone();
    let put = move |(number, case): (usize, conformance::Case)| {
        let client = client.clone();
        async move {
            // A real cluster's controllers work beside the cases: pod garbage collection comes every 20 s and takes pods whose Node does
            // not exist. A case that met one is put again, elsewhere; what fails twice is a lie.
            let mut done = conformance::run(&client, GROUP, &format!("conformance-{number}"), &case).await;
            if done.is_err() {
                done = conformance::run(&client, GROUP, &format!("conformance-again-{number}"), &case).await;
            }
            done.err().map(|error| format!("{:?}: {error:#}", case.name))
        }
    };
    let wrong: Vec<Option<String>> =
        stream::iter(conformance::all().into_iter().enumerate()).map(put).buffered(SIDE_BY_SIDE).collect().await;
    uncopied(&given, GROUP).await?;
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
