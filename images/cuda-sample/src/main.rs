//! The program of the sample image; see `cuda-sample --help`.

#![allow(clippy::disallowed_methods)] // a sample program that times itself

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

use cuda_sample::arguments::{Arguments, DeviceChoice};
use cuda_sample::device::Device;
use cuda_sample::device::cpu::Cpu;
use cuda_sample::device::driver;
use cuda_sample::digits::Digits;
use cuda_sample::results::{self, Metrics};
use cuda_sample::signals;
use cuda_sample::training::{Outcome, Surroundings, train};

/// A line to stdout; a reader that went away is no reason to lose the training.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    signals::listen();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let digits = Digits::read(&arguments.input)?;
    let files: Vec<String> = digits.files.iter().map(|path| path.display().to_string()).collect();
    say(&format!("{} images to train on, {} to test on, from {}", digits.train.len(), digits.test.len(), files.join(" and ")));
    if arguments.device == DeviceChoice::Cpu {
        say("training on the CPU, as asked");
        return train_on(&Cpu, &digits, arguments, began);
    }
    match driver::open() {
        Ok(cuda) => {
            say(&format!("training on {}", cuda.description().gpu_name.unwrap_or_default()));
            train_on(&cuda, &digits, arguments, began)
        }
        Err(reason) if arguments.device == DeviceChoice::Cuda => {
            bail!("no CUDA device answered ({reason}), and --device cuda rules out the CPU")
        }
        Err(reason) => {
            say(&format!("no CUDA device answered ({reason}): training on the CPU"));
            train_on(&Cpu, &digits, arguments, began)
        }
    }
}

fn train_on<D: Device>(device: &D, digits: &Digits, arguments: &Arguments, began: Instant) -> Result<ExitCode> {
    let settings = arguments.settings();
    let mut surroundings = Surroundings { say: &mut say, should_stop: &|| signals::received().is_some() };
    let trained = match train(device, digits, settings, arguments.checkpoints.as_deref(), &mut surroundings)? {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(epoch) => {
            let signal = signals::received().unwrap_or(libc::SIGTERM);
            let kept = if arguments.checkpoints.is_some() { "its checkpoint is kept" } else { "no --checkpoints, so nothing is kept" };
            say(&format!("stopped by signal {signal} after epoch {epoch}: {kept}"));
            return Ok(ExitCode::from(128 + signal as u8));
        }
    };
    let metrics = Metrics::of(&trained, digits, settings, device.description(), began.elapsed().as_secs_f64());
    let paths = results::write(&arguments.results, &trained, &metrics)
        .with_context(|| format!("cannot write results to {}", arguments.results.display()))?;
    say(&format!("accuracy {:.2} % after {} epochs in {:.2} s", 100.0 * metrics.accuracy, metrics.epochs, metrics.seconds));
    for path in paths {
        say(&format!("wrote {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
