//! The network: 64 pixels, 32 hidden units with ReLU, 10 digits with softmax. Forward and backward, once, for any device.

use crate::device::{Device, DeviceError, Matmul};
use crate::digits::{CLASSES, PIXELS};
use crate::random::Random;

/// Hidden units.
pub const HIDDEN: usize = 32;
/// Numbers that training finds: both layers' weights and biases.
pub const PARAMETERS: usize = PIXELS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES;

const SIZES: [usize; 4] = [PIXELS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES];
const PIXELS32: u32 = PIXELS as u32;
const HIDDEN32: u32 = HIDDEN as u32;
const CLASSES32: u32 = CLASSES as u32;

/// Weights and biases of both layers, or the gradient of the loss by each of them.
struct Layers<B> {
    /// `[PIXELS,HIDDEN]`
    hidden_weights: B,
    /// `[HIDDEN]`
    hidden_bias: B,
    /// `[HIDDEN,CLASSES]`
    output_weights: B,
    /// `[CLASSES]`
    output_bias: B,
}

impl<B> Layers<B> {
    /// From [`PARAMETERS`] numbers in the order of the fields.
    fn upload<D: Device<Buffer = B>>(device: &D, values: &[f32]) -> Result<Self, DeviceError> {
        let mut rest = values;
        let mut next = |size| {
            let (part, after) = rest.split_at(size);
            rest = after;
            device.upload(part)
        };
        Ok(Self {
            hidden_weights: next(SIZES[0])?,
            hidden_bias: next(SIZES[1])?,
            output_weights: next(SIZES[2])?,
            output_bias: next(SIZES[3])?,
        })
    }

    fn read<D: Device<Buffer = B>>(&self, device: &D) -> Result<Vec<f32>, DeviceError> {
        let mut values = Vec::with_capacity(PARAMETERS);
        let parts = [&self.hidden_weights, &self.hidden_bias, &self.output_weights, &self.output_bias];
        for (part, size) in parts.into_iter().zip(SIZES) {
            values.extend(device.read(part, size)?);
        }
        Ok(values)
    }
}

/// The network on a device, with memory for batches of up to `capacity` images.
pub struct Network<'d, D: Device> {
    device: &'d D,
    capacity: usize,
    parameters: Layers<D::Buffer>,
    gradients: Layers<D::Buffer>,
    images: D::Buffer,
    targets: D::Buffer,
    hidden: D::Buffer,
    hidden_gradient: D::Buffer,
    logits: D::Buffer,
    logits_gradient: D::Buffer,
    losses: D::Buffer,
}

/// [`PARAMETERS`] starting values: He's uniform weights for the layer before a ReLU, Glorot's after it, biases 0.
pub fn initial_parameters(seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 0);
    let mut values = Vec::with_capacity(PARAMETERS);
    let hidden_bound = (6.0 / PIXELS as f32).sqrt();
    values.extend((0..SIZES[0]).map(|_| random.symmetric(hidden_bound)));
    values.resize(SIZES[0] + SIZES[1], 0.0);
    let output_bound = (6.0 / (HIDDEN + CLASSES) as f32).sqrt();
    values.extend((0..SIZES[2]).map(|_| random.symmetric(output_bound)));
    values.resize(PARAMETERS, 0.0);
    values
}

impl<'d, D: Device> Network<'d, D> {
    /// A network with the given [`PARAMETERS`] numbers.
    pub fn new(device: &'d D, parameters: &[f32], capacity: usize) -> Result<Self, DeviceError> {
        assert_eq!(parameters.len(), PARAMETERS);
        let zeros = |length| device.upload(&vec![0.0; length]);
        Ok(Self {
            device,
            capacity,
            parameters: Layers::upload(device, parameters)?,
            gradients: Layers::upload(device, &[0.0; PARAMETERS])?,
            images: zeros(capacity * PIXELS)?,
            targets: zeros(capacity * CLASSES)?,
            hidden: zeros(capacity * HIDDEN)?,
            hidden_gradient: zeros(capacity * HIDDEN)?,
            logits: zeros(capacity * CLASSES)?,
            logits_gradient: zeros(capacity * CLASSES)?,
            losses: zeros(capacity)?,
        })
    }

    /// The parameters as they are now.
    pub fn parameters(&self) -> Result<Vec<f32>, DeviceError> {
        self.parameters.read(self.device)
    }

    /// Images that fit in one batch.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn forward(&mut self, pixels: &[f32]) -> Result<u32, DeviceError> {
        let rows = (pixels.len() / PIXELS) as u32;
        let (device, layers) = (self.device, &self.parameters);
        device.write(&mut self.images, pixels)?;
        let shape = Matmul::plain(rows, PIXELS32, HIDDEN32);
        device.matmul(shape, &self.images, &layers.hidden_weights, &mut self.hidden)?;
        device.add_bias(&mut self.hidden, &layers.hidden_bias, rows, HIDDEN32)?;
        device.relu(&mut self.hidden, rows * HIDDEN32)?;
        let shape = Matmul::plain(rows, HIDDEN32, CLASSES32);
        device.matmul(shape, &self.hidden, &layers.output_weights, &mut self.logits)?;
        device.add_bias(&mut self.logits, &layers.output_bias, rows, CLASSES32)?;
        Ok(rows)
    }

    /// The gradient of the mean loss over a batch, kept for [`Self::descend`]; returns each image's loss.
    /// `pixels` is `[n,PIXELS]`, `n` at most the capacity, with a label for each.
    pub fn backward(&mut self, pixels: &[f32], labels: &[u8]) -> Result<Vec<f32>, DeviceError> {
        let rows = self.forward(pixels)?;
        let device = self.device;
        let mut targets = vec![0.0; labels.len() * CLASSES];
        for (target, label) in targets.chunks_exact_mut(CLASSES).zip(labels) {
            target[usize::from(*label)] = 1.0;
        }
        device.write(&mut self.targets, &targets)?;
        device.softmax_cross_entropy(&self.logits, &self.targets, &mut self.logits_gradient, &mut self.losses, rows, CLASSES32)?;
        let gradients = &mut self.gradients;
        let shape = Matmul::left_transposed(HIDDEN32, rows, CLASSES32);
        device.matmul(shape, &self.hidden, &self.logits_gradient, &mut gradients.output_weights)?;
        device.column_sums(&self.logits_gradient, &mut gradients.output_bias, rows, CLASSES32)?;
        let shape = Matmul::right_transposed(rows, CLASSES32, HIDDEN32);
        device.matmul(shape, &self.logits_gradient, &self.parameters.output_weights, &mut self.hidden_gradient)?;
        device.relu_backward(&self.hidden, &mut self.hidden_gradient, rows * HIDDEN32)?;
        let shape = Matmul::left_transposed(PIXELS32, rows, HIDDEN32);
        device.matmul(shape, &self.images, &self.hidden_gradient, &mut gradients.hidden_weights)?;
        device.column_sums(&self.hidden_gradient, &mut gradients.hidden_bias, rows, HIDDEN32)?;
        device.read(&self.losses, labels.len())
    }

    /// One step of stochastic gradient descent along the gradient of the last [`Self::backward`].
    pub fn descend(&mut self, rate: f32) -> Result<(), DeviceError> {
        let (device, parameters, gradients) = (self.device, &mut self.parameters, &self.gradients);
        device.sgd(&mut parameters.hidden_weights, &gradients.hidden_weights, rate, PIXELS32 * HIDDEN32)?;
        device.sgd(&mut parameters.hidden_bias, &gradients.hidden_bias, rate, HIDDEN32)?;
        device.sgd(&mut parameters.output_weights, &gradients.output_weights, rate, HIDDEN32 * CLASSES32)?;
        device.sgd(&mut parameters.output_bias, &gradients.output_bias, rate, CLASSES32)
    }

    /// The digit that the network sees in each of the images `[n,PIXELS]`, for any `n`.
    pub fn classify(&mut self, pixels: &[f32]) -> Result<Vec<u8>, DeviceError> {
        let mut digits = Vec::with_capacity(pixels.len() / PIXELS);
        for batch in pixels.chunks(self.capacity * PIXELS) {
            let rows = self.forward(batch)?;
            let logits = self.device.read(&self.logits, rows as usize * CLASSES)?;
            digits.extend(logits.chunks_exact(CLASSES).map(|row| {
                let best = (0..CLASSES).max_by(|a, b| row[*a].total_cmp(&row[*b]));
                best.unwrap_or(0) as u8
            }));
        }
        Ok(digits)
    }
}

#[cfg(test)]
mod tests;
