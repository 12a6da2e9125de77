//! The gradient against finite differences, and the PTX against the CPU.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::device::cpu::Cpu;
use crate::device::cuda::Cuda;
use crate::device::ptx_machine::PtxMachine;

fn batch(rows: usize) -> (Vec<f32>, Vec<u8>) {
    let mut random = Random::new(5, 9);
    let pixels = (0..rows * PIXELS).map(|_| random.symmetric(0.5) + 0.5).collect();
    (pixels, (0..rows).map(|row| (row * 7 % CLASSES) as u8).collect())
}

fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let (pixels, labels) = batch(6);
    let start = initial_parameters(3);
    let loss_at = |parameters: &[f32]| mean(&Network::new(&Cpu, parameters, 6).unwrap().backward(&pixels, &labels).unwrap());
    let mut network = Network::new(&Cpu, &start, 6).unwrap();
    network.backward(&pixels, &labels).unwrap();
    let gradient = network.gradients.read(&Cpu).unwrap();
    assert!(gradient.iter().any(|slope| slope.abs() > 0.1));
    const STEP: f32 = 4e-3;
    // All biases and output weights, and a sample of the many hidden weights.
    for index in (0..PIXELS * HIDDEN).step_by(17).chain(PIXELS * HIDDEN..PARAMETERS) {
        let (mut above, mut below) = (start.clone(), start.clone());
        above[index] += STEP;
        below[index] -= STEP;
        let measured = (loss_at(&above) - loss_at(&below)) / f64::from(above[index] - below[index]);
        let difference = (measured - f64::from(gradient[index])).abs();
        assert!(difference < 2e-3 + 0.02 * measured.abs(), "{index}: {measured} but {}", gradient[index]);
    }
}

#[test]
fn the_ptx_computes_what_the_cpu_computes() {
    let cuda = Cuda::new(PtxMachine::new(), "PTX machine".to_owned());
    let start = initial_parameters(1);
    let mut on_cpu = Network::new(&Cpu, &start, 40).unwrap();
    let mut on_ptx = Network::new(&cuda, &start, 40).unwrap();
    // A full batch, a small one, one alone: kernels must stop at the batch's end, not at the memory's.
    for rows in [40, 9, 1, 33] {
        let (pixels, labels) = batch(rows);
        let losses = on_cpu.backward(&pixels, &labels).unwrap();
        for (cpu, ptx) in losses.iter().zip(on_ptx.backward(&pixels, &labels).unwrap()) {
            assert!((cpu - ptx).abs() < 1e-4, "{cpu} {ptx}");
        }
        on_cpu.descend(0.3).unwrap();
        on_ptx.descend(0.3).unwrap();
        for (cpu, ptx) in on_cpu.parameters().unwrap().iter().zip(on_ptx.parameters().unwrap()) {
            assert!((cpu - ptx).abs() < 1e-4, "{cpu} {ptx}");
        }
        assert_eq!(on_cpu.classify(&pixels).unwrap(), on_ptx.classify(&pixels).unwrap());
    }
    assert_ne!(on_cpu.parameters().unwrap(), start);
}
