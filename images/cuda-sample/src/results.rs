//! What a run leaves behind: `model.bin`, `metrics.json`, `confusion-matrix.png`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::device::Description;
use crate::digits::Digits;
use crate::model::{model_bytes, write_atomically};
use crate::picture::confusion_png;
use crate::training::{Settings, Trained, accuracy};

/// The model; its layout is at [`model_bytes`].
pub const MODEL: &str = "model.bin";
/// The [`Metrics`].
pub const METRICS: &str = "metrics.json";
/// The picture of the confusion matrix.
pub const PICTURE: &str = "confusion-matrix.png";

/// The run in numbers; small enough to be shown in a job's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Share of the test images that are classified rightly, 0..=1, to four digits.
    pub accuracy: f64,
    /// Mean training loss of the last epoch, to six digits.
    pub loss: f64,
    /// Epochs in the model.
    pub epochs: u32,
    /// `cuda` or `cpu`.
    pub device: String,
    /// The GPU, where there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gpu_name: Option<String>,
    /// Seconds from start to result, of this run alone.
    pub seconds: f64,
    /// Images trained on.
    pub trained_on: usize,
    /// Images tested on.
    pub tested_on: usize,
    /// The seed.
    pub seed: u64,
    /// The epoch that this run resumed from, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resumed_from: Option<u32>,
}

impl Metrics {
    /// The metrics of a finished run.
    pub fn of(trained: &Trained, digits: &Digits, settings: Settings, device: Description, seconds: f64) -> Self {
        let rounded = |value: f64, unit: f64| (value * unit).round() / unit;
        Self {
            accuracy: rounded(accuracy(&trained.confusion), 1e4),
            loss: rounded(f64::from(trained.loss), 1e6),
            epochs: settings.epochs,
            device: device.kind.to_owned(),
            gpu_name: device.gpu_name,
            seconds: rounded(seconds, 1e3),
            trained_on: digits.train.len(),
            tested_on: digits.test.len(),
            seed: settings.seed,
            resumed_from: trained.resumed_from,
        }
    }
}

/// Writes the three files, made whole before they get their names; returns their paths.
pub fn write(folder: &Path, trained: &Trained, metrics: &Metrics) -> io::Result<[PathBuf; 3]> {
    fs::create_dir_all(folder)?;
    let paths = [MODEL, PICTURE, METRICS].map(|name| folder.join(name));
    write_atomically(&paths[0], &model_bytes(&trained.parameters))?;
    write_atomically(&paths[1], &confusion_png(&trained.confusion).map_err(io::Error::other)?)?;
    let mut json = serde_json::to_vec(metrics)?;
    json.push(b'\n');
    write_atomically(&paths[2], &json)?;
    Ok(paths)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::digits::Images;
    use crate::network::initial_parameters;
    use crate::training::Confusion;

    #[test]
    fn the_three_files_are_there_and_the_metrics_are_small() {
        let folder = tempfile::tempdir().unwrap();
        let mut confusion = Confusion::default();
        (confusion[1][1], confusion[1][7]) = (2, 1);
        let trained = Trained { parameters: initial_parameters(1), loss: 0.25, confusion, resumed_from: None };
        let images = Images { pixels: vec![0.0; 128], labels: vec![0, 1] };
        let digits = Digits { train: images.clone(), test: images, files: Vec::new() };
        let settings = Settings { epochs: 3, batch: 32, rate: 0.1, seed: 9, checkpoint_every: 1 };
        let device = Description { kind: "cuda", gpu_name: Some("N".repeat(255)) };
        let metrics = Metrics::of(&trained, &digits, settings, device, 1.23456);
        let paths = write(folder.path(), &trained, &metrics).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing partial is left");
        let json = fs::read(&paths[2]).unwrap();
        assert!(json.len() <= 2048, "{}", json.len());
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["accuracy"], 0.6667);
        assert_eq!(value["loss"], 0.25);
        assert_eq!(value["epochs"], 3);
        assert_eq!(value["device"], "cuda");
        assert_eq!(value["seconds"], 1.235);
        assert!(value.get("resumed_from").is_none());
        let model = fs::read(&paths[0]).unwrap();
        assert_eq!(model.len(), 8 + 12 + 4 * crate::network::PARAMETERS + 4);
        assert!(model.starts_with(b"DIGITNN1\x40\0\0\0\x20\0\0\0\x0a\0\0\0"));
    }
}
