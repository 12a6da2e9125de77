//! Whole trainings: what is learned, the same twice, resumed, and on the PTX.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::device::cpu::Cpu;
use crate::device::cuda::Cuda;
use crate::device::ptx_machine::PtxMachine;
use crate::model::model_bytes;
use std::cell::Cell;

const SETTINGS: Settings = Settings { epochs: 40, batch: 32, rate: 0.2, seed: 1, checkpoint_every: 4 };

fn digits() -> Digits {
    Digits::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data"))).unwrap()
}

fn run<D: Device>(device: &D, digits: &Digits, settings: Settings, folder: Option<&Path>, stop_after: u32) -> (Outcome, Vec<String>) {
    let (mut lines, asked) = (Vec::new(), Cell::new(0));
    let should_stop = || {
        asked.set(asked.get() + 1);
        asked.get() == stop_after
    };
    let mut say = |line: &str| lines.push(line.to_owned());
    let mut surroundings = Surroundings { say: &mut say, should_stop: &should_stop };
    let outcome = train(device, digits, settings, folder, &mut surroundings).unwrap();
    (outcome, lines)
}

fn finished(outcome: Outcome) -> Trained {
    match outcome {
        Outcome::Finished(trained) => *trained,
        Outcome::Stopped(epoch) => panic!("stopped at {epoch}"),
    }
}

#[test]
fn it_learns_the_digits_and_one_seed_is_one_model() {
    let digits = digits();
    let model = |seed| {
        let trained = finished(run(&Cpu, &digits, Settings { seed, ..SETTINGS }, None, 0).0);
        assert!(accuracy(&trained.confusion) > 0.95, "seed {seed}: {}", accuracy(&trained.confusion));
        assert_eq!(trained.confusion.iter().flatten().sum::<u32>() as usize, digits.test.len());
        assert!(trained.loss < 0.1, "{}", trained.loss);
        model_bytes(&trained.parameters)
    };
    assert_eq!(model(1), model(1));
    assert_ne!(model(1), model(2));
}

#[test]
fn a_stopped_run_resumes_to_the_same_model() {
    let (digits, folder) = (digits(), tempfile::tempdir().unwrap());
    let settings = Settings { epochs: 12, ..SETTINGS };
    let whole = finished(run(&Cpu, &digits, settings, None, 0).0);
    let (stopped, lines) = run(&Cpu, &digits, settings, Some(folder.path()), 6);
    assert!(matches!(stopped, Outcome::Stopped(6)), "{stopped:?}");
    assert!(lines.last().unwrap().ends_with("epoch-000006.ckpt"), "{lines:?}");
    let (resumed, lines) = run(&Cpu, &digits, settings, Some(folder.path()), 0);
    let resumed = finished(resumed);
    assert_eq!(lines[0], "resuming after epoch 6 from its checkpoint");
    assert_eq!(resumed.resumed_from, Some(6));
    assert_eq!(resumed.parameters, whole.parameters);
    assert_eq!((resumed.loss, resumed.confusion), (whole.loss, whole.confusion));
    // All epochs done before: nothing is trained, the same is delivered.
    let again = finished(run(&Cpu, &digits, settings, Some(folder.path()), 0).0);
    assert_eq!((again.parameters, again.loss, again.resumed_from), (whole.parameters, whole.loss, Some(12)));
}

#[test]
fn the_same_loop_trains_on_the_ptx() {
    let mut digits = digits();
    digits.train.labels.truncate(150);
    digits.train.pixels.truncate(150 * PIXELS);
    digits.test.labels.truncate(20);
    digits.test.pixels.truncate(20 * PIXELS);
    let settings = Settings { epochs: 2, ..SETTINGS };
    let cuda = Cuda::new(PtxMachine::new(), "PTX machine".to_owned());
    let on_ptx = finished(run(&cuda, &digits, settings, None, 0).0);
    let on_cpu = finished(run(&Cpu, &digits, settings, None, 0).0);
    assert!((on_ptx.loss - on_cpu.loss).abs() < 1e-3, "{} {}", on_ptx.loss, on_cpu.loss);
    assert_eq!(on_ptx.confusion, on_cpu.confusion);
}

#[test]
fn a_loss_out_of_bounds_is_an_error() {
    let settings = Settings { rate: 1e30, epochs: 3, ..SETTINGS };
    let mut surroundings = Surroundings { say: &mut |_| (), should_stop: &|| false };
    let error = train(&Cpu, &digits(), settings, None, &mut surroundings).unwrap_err();
    assert!(error.to_string().contains("--learning-rate"), "{error}");
}
