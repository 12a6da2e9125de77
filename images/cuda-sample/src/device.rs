//! The operations that the network is made of, on the CPU ([`cpu`]) and on a GPU ([`cuda`]).

pub mod cpu;
pub mod cuda;
pub mod driver;
pub mod geometry;
pub mod kernels;
#[cfg(test)]
pub(crate) mod ptx_machine;

/// A failed operation on a device, with the call and what the driver said.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A driver call failed.
    #[error("{call}: {problem}")]
    Call {
        /// The driver function, with the kernel where there is one.
        call: String,
        /// The driver's name and words for the error.
        problem: String,
    },
    /// More elements than one launch can cover.
    #[error("{0} elements are too many for one launch")]
    TooManyElements(u64),
}

/// What a device is, for people and for `metrics.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// `cpu` or `cuda`.
    pub kind: &'static str,
    /// The GPU's name as its driver says it.
    pub gpu_name: Option<String>,
}

/// `out[m,n] = A[m,k] * B[k,n]`, where A and B may be stored transposed: strides say how far apart, in elements, two
/// neighbours in a column (`row`) and in a row (`column`) are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matmul {
    /// Rows of the result.
    pub m: u32,
    /// Length of the sums.
    pub k: u32,
    /// Columns of the result.
    pub n: u32,
    /// Strides (row, column) of A.
    pub a: (u32, u32),
    /// Strides (row, column) of B.
    pub b: (u32, u32),
}

impl Matmul {
    /// A is stored `[m,k]` and B `[k,n]`.
    pub fn plain(m: u32, k: u32, n: u32) -> Self {
        Self { m, k, n, a: (k, 1), b: (n, 1) }
    }

    /// A is stored transposed, `[k,m]`; B `[k,n]`.
    pub fn left_transposed(m: u32, k: u32, n: u32) -> Self {
        Self { m, k, n, a: (1, m), b: (n, 1) }
    }

    /// A is stored `[m,k]`; B transposed, `[n,k]`.
    pub fn right_transposed(m: u32, k: u32, n: u32) -> Self {
        Self { m, k, n, a: (k, 1), b: (1, k) }
    }
}

/// A place to compute. All matrices are row-major `f32`; every operation works on the front of its buffers, so that the
/// last, smaller batch uses the same memory as the others. Buffers passed as `out` are overwritten.
pub trait Device {
    /// Memory of the device.
    type Buffer;

    /// What this is.
    fn description(&self) -> Description;
    /// New memory holding `values`.
    fn upload(&self, values: &[f32]) -> Result<Self::Buffer, DeviceError>;
    /// Overwrites the front of a buffer.
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]) -> Result<(), DeviceError>;
    /// The first `length` elements, once everything before has been computed.
    fn read(&self, buffer: &Self::Buffer, length: usize) -> Result<Vec<f32>, DeviceError>;

    /// `out[m,n] = A * B`.
    fn matmul(&self, shape: Matmul, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer) -> Result<(), DeviceError>;
    /// `x[rows,columns] += bias[columns]`, for each row.
    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Buffer, rows: u32, columns: u32) -> Result<(), DeviceError>;
    /// `x = max(x, 0)` for the first `length` elements.
    fn relu(&self, x: &mut Self::Buffer, length: u32) -> Result<(), DeviceError>;
    /// `gradient = 0` wherever `activated` is not positive.
    fn relu_backward(&self, activated: &Self::Buffer, gradient: &mut Self::Buffer, length: u32) -> Result<(), DeviceError>;
    /// Per row `losses = -sum(targets * log softmax(logits))` and `gradient = (softmax(logits) - targets) / rows`;
    /// `targets` is one-hot, `[rows,columns]` as are `logits` and `gradient`.
    fn softmax_cross_entropy(
        &self,
        logits: &Self::Buffer,
        targets: &Self::Buffer,
        gradient: &mut Self::Buffer,
        losses: &mut Self::Buffer,
        rows: u32,
        columns: u32,
    ) -> Result<(), DeviceError>;
    /// `out[columns]` = the sum of each column of `x[rows,columns]`.
    fn column_sums(&self, x: &Self::Buffer, out: &mut Self::Buffer, rows: u32, columns: u32) -> Result<(), DeviceError>;
    /// `parameters -= rate * gradient`.
    fn sgd(&self, parameters: &mut Self::Buffer, gradient: &Self::Buffer, rate: f32, length: u32) -> Result<(), DeviceError>;
}
