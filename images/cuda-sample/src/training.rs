//! The training loop, written once for every device: shuffled batches, one epoch after the other, checkpoints between.

use std::io;
use std::path::Path;
use std::time::Instant;

use crate::checkpoint::{Checkpoint, CheckpointFolder, Lineage};
use crate::device::{Device, DeviceError};
use crate::digits::{CLASSES, Digits, Images, PIXELS};
use crate::network::{Network, initial_parameters};
use crate::random::Random;

/// Rows: the digit shown; columns: the digit seen.
pub type Confusion = [[u32; CLASSES]; CLASSES];

/// Why training ended without a model.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The checkpoint folder could not be read or written.
    #[error("checkpoints in {0}: {1}")]
    Checkpoints(String, io::Error),
    /// The loss is no number any more.
    #[error("the loss at epoch {0} is not a number: try a smaller --learning-rate")]
    Diverged(u32),
}

/// How to train.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Times that every training image is seen, at least 1.
    pub epochs: u32,
    /// Images in a batch, at least 1.
    pub batch: u32,
    /// Step size.
    pub rate: f32,
    /// Seed of weights and shuffles: the same seed gives the same model on the CPU, byte for byte.
    pub seed: u64,
    /// Epochs between two checkpoints, at least 1.
    pub checkpoint_every: u32,
}

/// A trained model and how good it is.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The model.
    pub parameters: Vec<f32>,
    /// Mean loss over the last epoch's batches.
    pub loss: f32,
    /// On the test images.
    pub confusion: Confusion,
    /// The epoch of the checkpoint that this run began with.
    pub resumed_from: Option<u32>,
}

/// How training ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Box<Trained>),
    /// It was asked to stop; this many epochs are done, and are in a checkpoint if there is a folder for them.
    Stopped(u32),
}

/// Where a run reports to, and what may end it early.
pub struct Surroundings<'a> {
    /// Hears a line for people, without its end.
    pub say: &'a mut dyn FnMut(&str),
    /// Asked after each epoch.
    pub should_stop: &'a dyn Fn() -> bool,
}

/// The share of the images on the matrix's diagonal, 0..=1.
pub fn accuracy(confusion: &Confusion) -> f64 {
    let right: u32 = (0..CLASSES).map(|digit| confusion[digit][digit]).sum();
    let all: u32 = confusion.iter().flatten().sum();
    f64::from(right) / f64::from(all.max(1))
}

/// Trains on `digits.train` and tests on `digits.test`, from the newest checkpoint in `checkpoints` if there is one.
pub fn train<D: Device>(
    device: &D,
    digits: &Digits,
    settings: Settings,
    checkpoints: Option<&Path>,
    surroundings: &mut Surroundings<'_>,
) -> Result<Outcome, TrainingError> {
    let Settings { epochs, batch, rate, seed, .. } = settings;
    let lineage = Lineage { seed, batch, rate, data: digits.fingerprint() };
    let in_folder = |error| TrainingError::Checkpoints(checkpoints.unwrap_or(Path::new("")).display().to_string(), error);
    let folder = checkpoints.map(|folder| CheckpointFolder::open(folder, lineage)).transpose().map_err(in_folder)?;
    let resumed = match &folder {
        Some(folder) => folder.newest(epochs, |line| (surroundings.say)(&format!("checkpoint passed over: {line}"))).map_err(in_folder)?,
        None => None,
    };
    let resumed_from = resumed.as_ref().map(|checkpoint| checkpoint.epoch);
    if let Some(epoch) = resumed_from {
        (surroundings.say)(&format!("resuming after epoch {epoch} from its checkpoint"));
    }
    let (start, mut loss) =
        resumed.map_or_else(|| (initial_parameters(seed), f32::NAN), |checkpoint| (checkpoint.parameters, checkpoint.loss));
    let mut network = Network::new(device, &start, batch as usize)?;
    let mut confusion = None;
    for epoch in resumed_from.unwrap_or(0) + 1..=epochs {
        let began = Instant::now();
        let mean = train_epoch(&mut network, &digits.train, settings, epoch)?;
        if !mean.is_finite() {
            return Err(TrainingError::Diverged(epoch));
        }
        let tested = test(&mut network, &digits.test)?;
        (surroundings.say)(&format!(
            "epoch {epoch:>3}/{epochs}   loss {mean:.4}   accuracy {:6.2} %   {:4.0} ms",
            100.0 * accuracy(&tested),
            began.elapsed().as_secs_f64() * 1e3,
        ));
        (loss, confusion) = (mean, Some(tested));
        let stop = epoch < epochs && (surroundings.should_stop)();
        if let Some(folder) = &folder
            && (stop || epoch == epochs || epoch % settings.checkpoint_every == 0)
        {
            let checkpoint = Checkpoint { epoch, loss, parameters: network.parameters()? };
            let path = folder.write(&checkpoint).map_err(in_folder)?;
            (surroundings.say)(&format!("checkpoint {}", path.display()));
        }
        if stop {
            return Ok(Outcome::Stopped(epoch));
        }
    }
    let confusion = match confusion {
        Some(confusion) => confusion,
        None => test(&mut network, &digits.test)?,
    };
    Ok(Outcome::Finished(Box::new(Trained { parameters: network.parameters()?, loss, confusion, resumed_from })))
}

/// One pass over the images in an order drawn for this epoch; returns the mean loss.
fn train_epoch<D: Device>(network: &mut Network<'_, D>, images: &Images, settings: Settings, epoch: u32) -> Result<f32, DeviceError> {
    let mut order: Vec<usize> = (0..images.len()).collect();
    Random::new(settings.seed, epoch.into()).shuffle(&mut order);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    let mut sum = 0.0f64;
    for batch in order.chunks(network.capacity()) {
        pixels.clear();
        labels.clear();
        for index in batch {
            pixels.extend_from_slice(images.image(*index));
            labels.push(images.labels[*index]);
        }
        sum += network.backward(&pixels, &labels)?.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        network.descend(settings.rate)?;
    }
    Ok((sum / images.len() as f64) as f32)
}

fn test<D: Device>(network: &mut Network<'_, D>, images: &Images) -> Result<Confusion, DeviceError> {
    let mut confusion = Confusion::default();
    debug_assert_eq!(images.pixels.len(), images.len() * PIXELS);
    for (shown, seen) in images.labels.iter().zip(network.classify(&images.pixels)?) {
        confusion[usize::from(*shown)][usize::from(seen)] += 1;
    }
    Ok(confusion)
}

#[cfg(test)]
mod tests;
