//! The driver's functions by name, out of `libcuda.so.1`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use super::NoCuda;
use crate::device::DeviceError;

pub(super) type Status = c_int;

/// Declares the driver functions as a struct of pointers, filled by name: one list of names and signatures.
macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),*);)*) => {
        pub(super) struct Functions { $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> Status,)* }

        impl Functions {
            fn find(symbol: impl Fn(&'static CStr) -> Result<*mut c_void, NoCuda>) -> Result<Self, NoCuda> {
                // SAFETY: cuda.h declares each of these names with this signature.
                Ok(Self { $($field: unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> Status>(symbol($symbol)?)
                },)* })
            }
        }
    };
}

functions! {
    init = c"cuInit" (c_uint);
    error_name = c"cuGetErrorName" (Status, *mut *const c_char);
    error_string = c"cuGetErrorString" (Status, *mut *const c_char);
    device_count = c"cuDeviceGetCount" (*mut c_int);
    device_get = c"cuDeviceGet" (*mut c_int, c_int);
    device_name = c"cuDeviceGetName" (*mut c_char, c_int, c_int);
    context_retain = c"cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
    context_set = c"cuCtxSetCurrent" (*mut c_void);
    module_load = c"cuModuleLoadDataEx" (*mut *mut c_void, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    module_function = c"cuModuleGetFunction" (*mut *mut c_void, *mut c_void, *const c_char);
    allocate = c"cuMemAlloc_v2" (*mut u64, usize);
    free = c"cuMemFree_v2" (u64);
    to_device = c"cuMemcpyHtoD_v2" (u64, *const c_void, usize);
    from_device = c"cuMemcpyDtoH_v2" (*mut c_void, u64, usize);
    launch = c"cuLaunchKernel" (
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
        *mut *mut c_void
    );
}

impl Functions {
    /// Loads the library and finds all functions.
    pub(super) fn load() -> Result<Self, NoCuda> {
        let library = load_library(c"libcuda.so.1")?;
        Self::find(|name| {
            // SAFETY: a live handle (the library is never unloaded) and a C string.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            if address.is_null() {
                return Err(NoCuda::Unusable(format!("libcuda.so.1 has no {}, the driver is too old", name.to_string_lossy())));
            }
            Ok(address)
        })
    }

    /// The driver's status as a result, with its own name and words for the error.
    pub(super) fn check(&self, status: Status, call: &str) -> Result<(), DeviceError> {
        if status == 0 {
            return Ok(());
        }
        let text = |function: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut text = ptr::null();
            // SAFETY: the driver stores a pointer to a static string, or leaves or stores null for an unknown status.
            unsafe {
                function(status, &mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let name = text(self.error_name).unwrap_or_else(|| format!("error {status}"));
        let words = text(self.error_string).map_or(String::new(), |words| format!(" ({words})"));
        Err(DeviceError::Call { call: call.to_owned(), problem: name + &words })
    }
}

/// dlopen; only in a dynamic build, for glibc's dlopen in a static one needs the very glibc it was built with.
#[cfg(not(target_feature = "crt-static"))]
fn load_library(name: &CStr) -> Result<*mut c_void, NoCuda> {
    // SAFETY: C strings in, a handle or null out; dlerror's text is copied before anything else can replace it.
    unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if !library.is_null() {
            return Ok(library);
        }
        let problem = libc::dlerror();
        let problem = if problem.is_null() { "".into() } else { CStr::from_ptr(problem).to_string_lossy() };
        // The text names the library that is missing, which may be one that libcuda itself needs.
        if problem.starts_with("libcuda.so.1:") && problem.contains("No such file") {
            Err(NoCuda::NotFound)
        } else {
            Err(NoCuda::Unusable(format!("libcuda.so.1 cannot be loaded: {problem}")))
        }
    }
}

#[cfg(target_feature = "crt-static")]
fn load_library(_: &CStr) -> Result<*mut c_void, NoCuda> {
    Err(NoCuda::StaticBuild)
}
