//! The CUDA driver, loaded at run time: nothing of CUDA is needed to build, and where `libcuda.so.1` is missing the
//! program still starts.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

mod functions;

use self::functions::Functions;
use super::DeviceError;
use super::cuda::{Cuda, Launcher};
use super::geometry::{Geometry, THREADS_PER_BLOCK};
use super::kernels::{self, Argument, Kernel};

/// Why there is no GPU to train on.
#[derive(Debug, thiserror::Error)]
pub enum NoCuda {
    /// A static binary cannot load libraries.
    #[error("this is a static build, which cannot load libcuda.so.1")]
    StaticBuild,
    /// No NVIDIA driver in reach of the loader.
    #[error("libcuda.so.1 not found")]
    NotFound,
    /// The library is there and cannot be loaded, or is too old.
    #[error("{0}")]
    Unusable(String),
    /// The driver answers, without a GPU.
    #[error("the driver found no GPU")]
    NoGpu,
    /// A call failed while the GPU was set up.
    #[error(transparent)]
    Call(#[from] DeviceError),
}

/// The first GPU, with the kernels loaded. Its context belongs to the thread that opened it, hence not `Send`.
pub struct Driver {
    functions: Functions,
    /// In the order of [`Kernel::ALL`].
    kernels: Vec<*mut c_void>,
}

/// Opens the first GPU and compiles the kernels for it.
pub fn open() -> Result<Cuda<Driver>, NoCuda> {
    let functions = Functions::load()?;
    let (mut count, mut device, mut context, mut module) = (0, 0, ptr::null_mut(), ptr::null_mut());
    let mut name: [c_char; 256] = [0; 256];
    // SAFETY: every pointer is to a local of the type that the driver writes, and outlives the call.
    unsafe {
        functions.check((functions.init)(0), "cuInit")?;
        functions.check((functions.device_count)(&mut count), "cuDeviceGetCount")?;
        if count == 0 {
            return Err(NoCuda::NoGpu);
        }
        functions.check((functions.device_get)(&mut device, 0), "cuDeviceGet")?;
        functions.check((functions.device_name)(name.as_mut_ptr(), 255, device), "cuDeviceGetName")?;
        functions.check((functions.context_retain)(&mut context, device), "cuDevicePrimaryCtxRetain")?;
        functions.check((functions.context_set)(context), "cuCtxSetCurrent")?;
    }
    load_module(&functions, &mut module)?;
    let mut found = Vec::with_capacity(Kernel::ALL.len());
    for kernel in Kernel::ALL {
        let (mut function, name) = (ptr::null_mut(), c_string(kernel.name()));
        // SAFETY: a loaded module and a C string that outlives the call.
        let status = unsafe { (functions.module_function)(&mut function, module, name.as_ptr()) };
        functions.check(status, &format!("cuModuleGetFunction {}", kernel.name()))?;
        found.push(function);
    }
    // SAFETY: the driver ends the name with a NUL, and the last byte was never given to it.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(Cuda::new(Driver { functions, kernels: found }, name))
}

fn load_module(functions: &Functions, module: &mut *mut c_void) -> Result<(), DeviceError> {
    // CU_JIT_ERROR_LOG_BUFFER and its size: without them a PTX error is only "invalid PTX".
    let mut log = vec![0u8; 4096];
    let mut options: [c_int; 2] = [5, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(log.len() - 1)];
    let text = c_string(kernels::PTX);
    // SAFETY: NUL-terminated text; two options with two values; the log is one byte longer than said.
    let status = unsafe { (functions.module_load)(module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
    functions.check(status, "cuModuleLoadDataEx").map_err(|error| match error {
        DeviceError::Call { call, problem } => {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            DeviceError::Call { call, problem: format!("{problem} {}", log.trim()).trim_end().to_owned() }
        }
        other => other,
    })
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("kernel texts and names hold no NUL; a test says so")
}

impl Launcher for Driver {
    fn allocate(&self, length: usize) -> Result<u64, DeviceError> {
        let mut pointer = 0;
        // The driver refuses 0 bytes; an empty buffer gets one float.
        // SAFETY: a local to write to.
        let status = unsafe { (self.functions.allocate)(&mut pointer, length.max(1) * size_of::<f32>()) };
        self.functions.check(status, "cuMemAlloc")?;
        Ok(pointer)
    }

    fn free(&self, pointer: u64) {
        // SAFETY: a pointer of cuMemAlloc, freed once by its owner. An error here changes nothing: the process frees it all.
        unsafe { (self.functions.free)(pointer) };
    }

    fn write(&self, pointer: u64, values: &[f32]) -> Result<(), DeviceError> {
        // SAFETY: the caller's memory holds at least these values.
        let status = unsafe { (self.functions.to_device)(pointer, values.as_ptr().cast(), size_of_val(values)) };
        self.functions.check(status, "cuMemcpyHtoD")
    }

    fn read(&self, pointer: u64, values: &mut [f32]) -> Result<(), DeviceError> {
        // SAFETY: as above; the call waits for the launches before it, for all are in the default stream.
        let status = unsafe { (self.functions.from_device)(values.as_mut_ptr().cast(), pointer, size_of_val(values)) };
        self.functions.check(status, "cuMemcpyDtoH")
    }

    fn launch(&self, kernel: Kernel, geometry: Geometry, arguments: &[Argument]) -> Result<(), DeviceError> {
        // The driver reads each argument through a pointer, as many bytes as the kernel declares.
        let mut pointers: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Pointer(value) => ptr::from_ref(value).cast_mut().cast(),
                Argument::Count(value) => ptr::from_ref(value).cast_mut().cast(),
                Argument::Number(value) => ptr::from_ref(value).cast_mut().cast(),
            })
            .collect();
        // SAFETY: the arguments match the kernel's declaration (checked by the caller) and are copied by the call.
        let status = unsafe {
            (self.functions.launch)(
                self.kernels[kernel as usize],
                geometry.blocks,
                1,
                1,
                THREADS_PER_BLOCK,
                1,
                1,
                0,
                ptr::null_mut(),
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.functions.check(status, &format!("cuLaunchKernel {}", kernel.name()))
    }
}
