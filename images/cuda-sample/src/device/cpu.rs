//! The same operations on the CPU: plain loops, one thread, the same sums in the same order on every run.

use super::{Description, Device, DeviceError, Matmul};

/// The CPU as a device; its buffers are vectors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Device for Cpu {
    type Buffer = Vec<f32>;

    fn description(&self) -> Description {
        Description { kind: "cpu", gpu_name: None }
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<f32>, DeviceError> {
        Ok(values.to_vec())
    }

    fn write(&self, buffer: &mut Vec<f32>, values: &[f32]) -> Result<(), DeviceError> {
        buffer[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn read(&self, buffer: &Vec<f32>, length: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(buffer[..length].to_vec())
    }

    fn matmul(&self, shape: Matmul, a: &Vec<f32>, b: &Vec<f32>, out: &mut Vec<f32>) -> Result<(), DeviceError> {
        let Matmul { m, k, n, a: a_strides, b: b_strides } = shape;
        let (m, k, n) = (m as usize, k as usize, n as usize);
        let (a_row, a_column) = (a_strides.0 as usize, a_strides.1 as usize);
        let (b_row, b_column) = (b_strides.0 as usize, b_strides.1 as usize);
        for (i, row) in out[..m * n].chunks_exact_mut(n).enumerate() {
            row.fill(0.0);
            for l in 0..k {
                let left = a[i * a_row + l * a_column];
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum += left * b[l * b_row + j * b_column];
                }
            }
        }
        Ok(())
    }

    fn add_bias(&self, x: &mut Vec<f32>, bias: &Vec<f32>, rows: u32, columns: u32) -> Result<(), DeviceError> {
        for row in x[..(rows * columns) as usize].chunks_exact_mut(columns as usize) {
            row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
        Ok(())
    }

    fn relu(&self, x: &mut Vec<f32>, length: u32) -> Result<(), DeviceError> {
        x[..length as usize].iter_mut().for_each(|x| *x = x.max(0.0));
        Ok(())
    }

    fn relu_backward(&self, activated: &Vec<f32>, gradient: &mut Vec<f32>, length: u32) -> Result<(), DeviceError> {
        for (gradient, activated) in gradient[..length as usize].iter_mut().zip(activated) {
            if *activated <= 0.0 {
                *gradient = 0.0;
            }
        }
        Ok(())
    }

    fn softmax_cross_entropy(
        &self,
        logits: &Vec<f32>,
        targets: &Vec<f32>,
        gradient: &mut Vec<f32>,
        losses: &mut Vec<f32>,
        rows: u32,
        columns: u32,
    ) -> Result<(), DeviceError> {
        let columns = columns as usize;
        for (row, loss) in losses[..rows as usize].iter_mut().enumerate() {
            let span = row * columns..(row + 1) * columns;
            let (logits, targets) = (&logits[span.clone()], &targets[span.clone()]);
            // The largest logit is taken out first: exp never overflows, and the sum is at least 1.
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
            let log_sum = sum.ln();
            *loss = 0.0;
            for ((gradient, logit), target) in gradient[span].iter_mut().zip(logits).zip(targets) {
                *gradient = ((logit - largest).exp() / sum - target) / rows as f32;
                *loss += target * (log_sum - (logit - largest));
            }
        }
        Ok(())
    }

    fn column_sums(&self, x: &Vec<f32>, out: &mut Vec<f32>, rows: u32, columns: u32) -> Result<(), DeviceError> {
        let columns = columns as usize;
        out[..columns].fill(0.0);
        for row in x[..rows as usize * columns].chunks_exact(columns) {
            out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    }

    fn sgd(&self, parameters: &mut Vec<f32>, gradient: &Vec<f32>, rate: f32, length: u32) -> Result<(), DeviceError> {
        for (parameter, gradient) in parameters[..length as usize].iter_mut().zip(gradient) {
            *parameter -= rate * gradient;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_three_layouts_multiply_the_same_matrices() {
        // A = [1 2 3; 4 5 6], B = [1 0; 0 2; 1 1], A*B = [4 7; 10 16].
        let expected = vec![4.0, 7.0, 10.0, 16.0];
        for (shape, a, b) in [
            (Matmul::plain(2, 3, 2), vec![1., 2., 3., 4., 5., 6.], vec![1., 0., 0., 2., 1., 1.]),
            (Matmul::left_transposed(2, 3, 2), vec![1., 4., 2., 5., 3., 6.], vec![1., 0., 0., 2., 1., 1.]),
            (Matmul::right_transposed(2, 3, 2), vec![1., 2., 3., 4., 5., 6.], vec![1., 0., 1., 0., 2., 1.]),
        ] {
            let mut out = vec![f32::NAN; 4];
            Cpu.matmul(shape, &a, &b, &mut out).unwrap();
            assert_eq!(out, expected, "{shape:?}");
        }
    }

    #[test]
    fn softmax_survives_large_logits() {
        let (mut gradient, mut losses) = (vec![0.0; 2], vec![0.0; 1]);
        Cpu.softmax_cross_entropy(&vec![1000.0, 0.0], &vec![0.0, 1.0], &mut gradient, &mut losses, 1, 2).unwrap();
        assert_eq!((gradient, losses), (vec![1.0, -1.0], vec![1000.0]));
    }
}
