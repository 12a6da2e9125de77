//! The operations on a GPU: which kernel, how many threads, which arguments. What starts them is a [`Launcher`]: the CUDA
//! driver in the product, a machine that runs the PTX text in the tests.

use std::rc::Rc;

use super::geometry::Geometry;
use super::kernels::{Argument, Kernel, Parameter};
use super::{Description, Device, DeviceError, Matmul};

/// Memory and kernel launches of one GPU. Calls take effect in order.
pub trait Launcher {
    /// Memory for `length` floats, contents undefined, aligned to 256 bytes.
    fn allocate(&self, length: usize) -> Result<u64, DeviceError>;
    /// Gives memory back.
    fn free(&self, pointer: u64);
    /// Copies to the device.
    fn write(&self, pointer: u64, values: &[f32]) -> Result<(), DeviceError>;
    /// Copies from the device, once all launches before are done.
    fn read(&self, pointer: u64, values: &mut [f32]) -> Result<(), DeviceError>;
    /// Starts a kernel; the arguments have the types that [`Kernel::parameters`] says.
    fn launch(&self, kernel: Kernel, geometry: Geometry, arguments: &[Argument]) -> Result<(), DeviceError>;
}

/// Memory on the device, freed when dropped.
#[derive(Debug)]
pub struct Memory<L: Launcher> {
    launcher: Rc<L>,
    pointer: u64,
    length: usize,
}

impl<L: Launcher> Memory<L> {
    /// The pointer as an argument, for a kernel that touches the first `elements`: nothing on the device would stop it
    /// from going further.
    fn argument(&self, elements: u64) -> Argument {
        assert!(elements <= self.length as u64, "{elements} elements asked of memory for {}", self.length);
        Argument::Pointer(self.pointer)
    }
}

impl<L: Launcher> Drop for Memory<L> {
    fn drop(&mut self) {
        self.launcher.free(self.pointer);
    }
}

/// A GPU as a device.
#[derive(Debug)]
pub struct Cuda<L: Launcher> {
    launcher: Rc<L>,
    gpu_name: String,
}

impl<L: Launcher> Cuda<L> {
    /// The GPU behind a launcher.
    pub fn new(launcher: L, gpu_name: String) -> Self {
        Self { launcher: Rc::new(launcher), gpu_name }
    }

    fn launch(&self, kernel: Kernel, threads: u64, arguments: &[Argument]) -> Result<(), DeviceError> {
        // The driver cannot check argument types; a wrong one would be read as garbage.
        let given: Vec<Parameter> = arguments.iter().map(Argument::parameter).collect();
        assert_eq!(given, kernel.parameters(), "arguments of {}", kernel.name());
        match Geometry::for_elements(threads)? {
            Some(geometry) => self.launcher.launch(kernel, geometry, arguments),
            None => Ok(()),
        }
    }
}

/// Elements of a matrix.
fn area(rows: u32, columns: u32) -> u64 {
    u64::from(rows) * u64::from(columns)
}

impl<L: Launcher> Device for Cuda<L> {
    type Buffer = Memory<L>;

    fn description(&self) -> Description {
        Description { kind: "cuda", gpu_name: Some(self.gpu_name.clone()) }
    }

    fn upload(&self, values: &[f32]) -> Result<Memory<L>, DeviceError> {
        let pointer = self.launcher.allocate(values.len())?;
        let memory = Memory { launcher: Rc::clone(&self.launcher), pointer, length: values.len() };
        self.launcher.write(pointer, values)?;
        Ok(memory)
    }

    fn write(&self, buffer: &mut Memory<L>, values: &[f32]) -> Result<(), DeviceError> {
        assert!(values.len() <= buffer.length, "{} values for memory of {}", values.len(), buffer.length);
        self.launcher.write(buffer.pointer, values)
    }

    fn read(&self, buffer: &Memory<L>, length: usize) -> Result<Vec<f32>, DeviceError> {
        assert!(length <= buffer.length, "{length} values asked of memory of {}", buffer.length);
        let mut values = vec![0.0; length];
        self.launcher.read(buffer.pointer, &mut values)?;
        Ok(values)
    }

    fn matmul(&self, shape: Matmul, a: &Memory<L>, b: &Memory<L>, out: &mut Memory<L>) -> Result<(), DeviceError> {
        let Matmul { m, k, n, a: a_strides, b: b_strides } = shape;
        let arguments = [
            a.argument(area(m, k)),
            b.argument(area(k, n)),
            out.argument(area(m, n)),
            Argument::Count(m),
            Argument::Count(k),
            Argument::Count(n),
            Argument::Count(a_strides.0),
            Argument::Count(a_strides.1),
            Argument::Count(b_strides.0),
            Argument::Count(b_strides.1),
        ];
        self.launch(Kernel::Matmul, area(m, n), &arguments)
    }

    fn add_bias(&self, x: &mut Memory<L>, bias: &Memory<L>, rows: u32, columns: u32) -> Result<(), DeviceError> {
        let elements = area(rows, columns);
        let arguments = [x.argument(elements), bias.argument(columns.into()), Argument::Count(rows), Argument::Count(columns)];
        self.launch(Kernel::AddBias, elements, &arguments)
    }

    fn relu(&self, x: &mut Memory<L>, length: u32) -> Result<(), DeviceError> {
        self.launch(Kernel::Relu, length.into(), &[x.argument(length.into()), Argument::Count(length)])
    }

    fn relu_backward(&self, activated: &Memory<L>, gradient: &mut Memory<L>, length: u32) -> Result<(), DeviceError> {
        let elements = u64::from(length);
        let arguments = [activated.argument(elements), gradient.argument(elements), Argument::Count(length)];
        self.launch(Kernel::ReluBackward, elements, &arguments)
    }

    fn softmax_cross_entropy(
        &self,
        logits: &Memory<L>,
        targets: &Memory<L>,
        gradient: &mut Memory<L>,
        losses: &mut Memory<L>,
        rows: u32,
        columns: u32,
    ) -> Result<(), DeviceError> {
        let elements = area(rows, columns);
        let arguments = [
            logits.argument(elements),
            targets.argument(elements),
            gradient.argument(elements),
            losses.argument(rows.into()),
            Argument::Count(rows),
            Argument::Count(columns),
        ];
        self.launch(Kernel::SoftmaxCrossEntropy, rows.into(), &arguments)
    }

    fn column_sums(&self, x: &Memory<L>, out: &mut Memory<L>, rows: u32, columns: u32) -> Result<(), DeviceError> {
        let arguments = [x.argument(area(rows, columns)), out.argument(columns.into()), Argument::Count(rows), Argument::Count(columns)];
        self.launch(Kernel::ColumnSums, columns.into(), &arguments)
    }

    fn sgd(&self, parameters: &mut Memory<L>, gradient: &Memory<L>, rate: f32, length: u32) -> Result<(), DeviceError> {
        let elements = u64::from(length);
        let arguments = [parameters.argument(elements), gradient.argument(elements), Argument::Number(rate), Argument::Count(length)];
        self.launch(Kernel::Sgd, elements, &arguments)
    }
}
