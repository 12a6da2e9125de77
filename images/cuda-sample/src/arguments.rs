//! Flags, each with an environment variable: an image's user sets what is handier.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::training::Settings;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// A GPU if one answers, the CPU otherwise.
    Auto,
    /// A GPU, or fail.
    Cuda,
    /// The CPU.
    Cpu,
}

/// Train a small network (64-32-10) to read handwritten digits, on a CUDA GPU if one answers and on the CPU otherwise.
///
/// Leaves model.bin, metrics.json and confusion-matrix.png. On SIGTERM it ends the epoch, writes a checkpoint and exits
/// with 143; a later run with the same --checkpoints goes on from there.
#[derive(Debug, Clone, Parser)]
#[command(name = "cuda-sample", version, args_override_self = true)]
pub struct Arguments {
    /// Folder with digits.csv[.gz], or with train.csv[.gz] and test.csv[.gz]: one image a line, 64 pixels 0..16 and the digit.
    #[arg(long, env = "CUDA_SAMPLE_INPUT", default_value = "/data")]
    pub input: PathBuf,
    /// Folder for the results; made if missing.
    #[arg(long, env = "CUDA_SAMPLE_RESULTS", default_value = "/results")]
    pub results: PathBuf,
    /// Folder for checkpoints, to resume from; without it none are written.
    #[arg(long, env = "CUDA_SAMPLE_CHECKPOINTS")]
    pub checkpoints: Option<PathBuf>,
    /// Epochs between two checkpoints.
    #[arg(long, env = "CUDA_SAMPLE_CHECKPOINT_EVERY", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoint_every: u32,
    /// Times that every image is trained on.
    #[arg(long, env = "CUDA_SAMPLE_EPOCHS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: u32,
    /// Images in a batch.
    #[arg(long, env = "CUDA_SAMPLE_BATCH", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch: u32,
    /// Step size of the gradient descent.
    #[arg(long, env = "CUDA_SAMPLE_LEARNING_RATE", default_value_t = 0.2, value_parser = positive)]
    pub learning_rate: f32,
    /// Seed of the weights and of the order of the images: on the CPU, the same seed gives the same model.bin.
    #[arg(long, env = "CUDA_SAMPLE_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Where to compute.
    #[arg(long, env = "CUDA_SAMPLE_DEVICE", value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
}

impl Arguments {
    /// How to train.
    pub fn settings(&self) -> Settings {
        Settings {
            epochs: self.epochs,
            batch: self.batch,
            rate: self.learning_rate,
            seed: self.seed,
            checkpoint_every: self.checkpoint_every,
        }
    }
}

fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent_and_bad_numbers_are_refused() {
        Arguments::command().debug_assert();
        for bad in ["--epochs=0", "--batch=0", "--learning-rate=0", "--learning-rate=nan", "--checkpoint-every=0", "--device=tpu"] {
            assert!(Arguments::try_parse_from(["cuda-sample", bad]).is_err(), "{bad}");
        }
        assert!(Arguments::try_parse_from(["cuda-sample", "--epochs=3", "--device=cpu"]).is_ok());
    }
}
