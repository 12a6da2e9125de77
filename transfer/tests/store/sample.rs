//! The sample program, interrupted at random epochs: its checkpoints travel through the store from attempt to attempt, and the model is the
//! one that a run without interruptions makes, byte for byte.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use cuda_sample::device::cpu::Cpu;
use cuda_sample::digits::Digits;
use cuda_sample::model::model_bytes;
use cuda_sample::training::{Outcome, Settings, Surroundings, train};
use rustix::process::{Signal, kill_process};

use crate::attempt::{Attempt, Running, pid};
use crate::checkpoints::{folder, job};
use crate::soak::{Dice, processes};
use crate::weed::weed;

const SETTINGS: Settings = Settings { epochs: 60, batch: 32, rate: 0.2, seed: 7, checkpoint_every: 2 };

/// Trains in the folder; `each` is told of every epoch and says whether to stop after it.
fn run(digits: &Digits, folder: Option<&Path>, each: &dyn Fn() -> bool) -> (Outcome, Vec<String>) {
    let mut lines = vec![];
    let mut say = |line: &str| lines.push(line.to_owned());
    let mut surroundings = Surroundings { say: &mut say, should_stop: each };
    let outcome = train(&Cpu, digits, SETTINGS, folder, &mut surroundings).unwrap();
    (outcome, lines)
}

fn resumed_from(lines: &[String]) -> u32 {
    let said = lines.iter().find_map(|line| line.strip_prefix("resuming after epoch ")?.split(' ').next());
    said.map_or(0, |epoch| epoch.parse().unwrap())
}

/// The kubelet's way, or the end of a node's power.
fn end(sidecar: Running, gently: bool) {
    if gently {
        sidecar.signal(Signal::TERM);
        let ended = sidecar.end();
        assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
    } else {
        for process in processes(sidecar.child.id()) {
            let _ = kill_process(pid(process), Signal::KILL);
        }
        sidecar.end();
    }
}

#[test]
fn five_interruptions_make_the_same_model() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/cuda-sample/data");
    let digits = Digits::read(&data).unwrap();
    let Outcome::Finished(whole) = run(&digits, None, &|| false).0 else { panic!("it was not asked to stop") };
    let bucket = weed().bucket("sample");
    let mut dice = Dice::new(5);
    let (mut sure, mut interruptions) = (0, vec![]);
    for number in 1.. {
        let job: Attempt = job("sample", number, &bucket, false);
        let fetched = job.run(&["fetch"]);
        assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
        let sidecar = job.start(&["stage"]);
        let gently = number % 2 == 1;
        let (saved_after, more) = (2 + dice.roll(6) as u32, 1 + dice.roll(4) as u32);
        let (epochs, saved_at) = (Cell::new(0), Cell::new(0));
        let each = || {
            if number > 5 {
                return false;
            }
            epochs.set(epochs.get() + 1);
            if epochs.get() == saved_after {
                // A rebalance recommendation: a checkpoint is saved, the program goes on.
                fs::write(job.folder.path().join("pod/checkpoint"), number.to_string()).unwrap();
                sidecar.says("saved checkpoint");
                saved_at.set(epochs.get());
            }
            epochs.get() == saved_after + more
        };
        let (outcome, lines) = run(&digits, Some(&folder(&job)), &each);
        let from = resumed_from(&lines);
        assert_eq!(from, sure, "attempt {number} begins where the last one was saved: {lines:?}");
        match outcome {
            Outcome::Stopped(epoch) => {
                interruptions.push(epoch);
                // Told to end, it leaves a last checkpoint. Else what counts was there before the epoch in which it was saved.
                sure = if gently { epoch } else { from.max((from + saved_at.get() - 1) / 2 * 2) };
                end(sidecar, gently);
            }
            Outcome::Finished(trained) => {
                assert_eq!(number, 6, "five interruptions: {interruptions:?}");
                end(sidecar, true);
                assert_eq!(model_bytes(&trained.parameters), model_bytes(&whole.parameters));
                println!("interrupted after epochs {interruptions:?}, the same model after {}", SETTINGS.epochs);
                return;
            }
        }
    }
}
