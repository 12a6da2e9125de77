//! End to end, on a real cluster: one lab for all cases, brought up once and taken down at the end.
//!
//! Where the lab cannot run, every case that needs it is reported as ignored, with the reason; with `CI=true` that is a
//! failure. Cases run side by side, but for those that disturb the operator, which run alone.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod api;
mod cloud;
mod conformance;
mod crash;
mod data;
mod deletes;
mod demo;
mod endings;
mod evidence;
mod life;
mod operators;
mod readme;
mod session;
mod uninstall;

use libtest_mimic::{Arguments, Trial};
use session::{Session, case};
use std::process::ExitCode;

/// As many side by side as two cores bear.
const SIDE_BY_SIDE: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let missing = gpujob_e2e::prerequisites().err();
    if let Some(missing) = &missing {
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            eprintln!("error: CI=true, and the end-to-end tests cannot run here: {missing}");
            return ExitCode::FAILURE;
        }
        eprintln!("end-to-end tests are ignored: {missing}");
    }
    let session = Session::new();
    let needs_lab =
        |trials: Vec<Trial>| -> Vec<Trial> { trials.into_iter().map(|trial| trial.with_ignored_flag(missing.is_some())).collect() };
    let mut trials = needs_lab(vec![
        // The longest first.
        case(&session, "whatever_is_deleted_leaves_nothing", deletes::leave_nothing),
        case(&session, "demo_from_zero_to_results_to_zero", demo::the_demo),
        case(&session, "a_failing_program_is_told_and_its_node_released", endings::failing_program),
        case(&session, "a_missing_bucket_is_told", endings::missing_bucket),
        case(&session, "wrong_keys_are_told", endings::wrong_keys),
        case(&session, "a_missing_input_is_told", endings::missing_input),
        case(&session, "a_doomed_job_is_told_while_its_instance_boots", data::doomed),
        case(&session, "an_interrupted_job_goes_on_from_its_checkpoint", data::resumed),
        case(&session, "the_api_server_refuses_and_accepts_as_the_cases_say", api::cases),
        case(&session, "the_simulators_api_server_is_true_to_this_one", conformance::cases),
        case(&session, "samples_are_accepted", api::samples),
        case(&session, "the_readmes_helm_line_installs_the_chart", readme::install_line),
        case(&session, "the_operators_keys_can_end_only_its_own_instances", cloud::operators_keys),
        case(&session, "the_operators_account_reads_no_secrets", cloud::operators_rights),
        case(&session, "images_go_to_a_registry_of_ones_own", readme::images),
        case(&session, "a_second_up_is_quick_and_changes_nothing", life::second_up),
        case(&session, "env_lets_any_client_work", life::environment),
        case(&session, "push_builds_and_pushes", life::push),
    ]);
    trials.push(Trial::test("the_ec2_layer_tells_the_truth", move || session::block_on(cloud::layers_own_tests())));
    trials.push(Trial::test("every_command_of_the_readme_is_run", || session::block_on(readme::commands())));
    // Alone, and after the others: they end the operator.
    let alone = needs_lab(vec![
        case(&session, "operator_killed_between_launch_and_record", crash::killed),
        case(&session, "another_operator_takes_over_in_time", operators::followed),
        case(&session, "operators_killed_at_random_lose_and_double_nothing", operators::killed_at_random),
        case(&session, "instances_end_themselves_when_nobody_is_home", operators::nobody_is_home),
        case(&session, "an_uninstall_gives_everything_back_first", uninstall::drains_first),
    ]);
    // For working on the cases themselves: the lab stays, so that the next run starts where this one ended.
    let keep = std::env::var_os("GPUJOB_LAB_KEEP").is_some();
    let last = [case(&session, "a_crashed_lab_comes_up_anew", life::crashed), case(&session, "down_leaves_nothing", life::down)];
    let last: Vec<Trial> = last.into_iter().map(|trial| trial.with_ignored_flag(keep || missing.is_some())).collect();

    if arguments.list {
        let all = trials.into_iter().chain(alone).chain(last).collect();
        return libtest_mimic::run(&arguments, all).exit_code();
    }
    let asked = arguments.test_threads.unwrap_or(SIDE_BY_SIDE);
    let mut failed = false;
    for (threads, group) in [(asked, trials), (1, alone), (1, last)] {
        arguments.test_threads = Some(threads);
        failed |= libtest_mimic::run(&arguments, group).has_failed();
    }
    // A filter may have left the last case out, and a failure may have left anything.
    if !keep {
        failed |= session.end().is_err();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
