//! Intel's multi-buffer cryptography, `libcrypto_mb`, loaded at run time: the only unsafe of this
//! crate. Nothing links against it.
//!
//! What cannot be proved here is that the file that was loaded is this library. Its name is all that
//! the loader goes by; its signatures are checked (`super`), but code that does something else
//! altogether has the process. Whoever may write to that file has to be as trusted as whoever may
//! write to the engine's own.
#![allow(unsafe_code)]

use super::crt::Factor;
use super::{BatchError, LANES, Lane, MultiBuffer, Number};
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_int, c_void};
use std::path::Path;
use std::{fmt, mem};

/// As its releases of 2021 to 2026 name it, newest first. The functions used here have had the same
/// parameters in all of them.
const NAMES: [&str; 3] = [
    "libcrypto_mb.so.13",
    "libcrypto_mb.so.12",
    "libcrypto_mb.so.11",
];

/// What Intel's own builds need beside themselves, in the order in which they need each other. PyPI
/// and oneAPI put it into the directory of the library, where the loader does not look.
const COMPANIONS: [&str; 4] = ["libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so"];

/// Bits of a modulus.
const BITS: c_int = 2048;

/// A table of functions for one size of key, static in the library.
type Method = *const c_void;
/// `int mbx_is_crypto_mb_applicable(int64u cpu_features)`; 0 asks for this CPU's.
type IsApplicable = unsafe extern "C" fn(u64) -> c_int;
/// `const mbx_RSA_Method* mbx_RSA2K_private_crt_Method(void)`
type GetMethod = unsafe extern "C" fn() -> Method;
/// `int mbx_RSA_Method_BufSize(const mbx_RSA_Method* m)`
type ScratchSize = unsafe extern "C" fn(Method) -> c_int;
/// `mbx_status mbx_rsa_private_crt_mb8(const int8u* const from_pa[8], int8u* const to_pa[8],
/// const int64u* const p_pa[8], … q_pa[8], … dp_pa[8], … dq_pa[8], … iq_pa[8], int rsaBitlen,
/// const mbx_RSA_Method* m, int8u* pBuffer)`
type PrivateKeyOp = unsafe extern "C" fn(
    *const *const u8,
    *const *mut u8,
    *const *const u64,
    *const *const u64,
    *const *const u64,
    *const *const u64,
    *const *const u64,
    c_int,
    Method,
    *mut u8,
) -> u32;
/// `mbx_status mbx_rsa_public_mb8(const int8u* const from_pa[8], int8u* const to_pa[8],
/// const int64u* const n_pa[8], int rsaBitlen, const mbx_RSA_Method* m, int8u* pBuffer)`
type PublicKeyOp = unsafe extern "C" fn(
    *const *const u8,
    *const *mut u8,
    *const *const u64,
    c_int,
    Method,
    *mut u8,
) -> u32;

/// The functions in use. They stay loaded for the life of the process.
pub(super) struct Library {
    private: PrivateKeyOp,
    private_method: GetMethod,
    public: PublicKeyOp,
    public_method: GetMethod,
    /// Working memory that one call of either takes, 64-bit words.
    scratch_words: usize,
}

impl Library {
    /// Loads the library from `path`, or from where the system's loader finds it.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, BatchError> {
        let (name, handle) = match path {
            Some(path) => (path.display().to_string(), load(path)),
            None => {
                let mut names = NAMES.iter().map(|name| (*name, load(Path::new(name))));
                let first = names.next().expect("a name");
                let (name, handle) = if first.1.is_ok() {
                    first
                } else {
                    // Where there is none, the newest is the one to ask for.
                    names.find(|(_, handle)| handle.is_ok()).unwrap_or(first)
                };
                (name.to_owned(), handle)
            }
        };
        let load_error = |source| BatchError::Load { source };
        let handle = handle.map_err(load_error)?;
        // SAFETY: `get` asks that the symbol is of the given type. The types above are those of the
        // library's headers (crypto_mb/rsa.h, crypto_mb/cpu_features.h), the same in every release
        // that has all these symbols; of another library with such names nothing can be said.
        let (is_applicable, scratch_size, library) = unsafe {
            (
                symbol::<IsApplicable>(&handle, c"mbx_is_crypto_mb_applicable")
                    .map_err(load_error)?,
                symbol::<ScratchSize>(&handle, c"mbx_RSA_Method_BufSize").map_err(load_error)?,
                Self {
                    private: symbol(&handle, c"mbx_rsa_private_crt_mb8").map_err(load_error)?,
                    private_method: symbol(&handle, c"mbx_RSA2K_private_crt_Method")
                        .map_err(load_error)?,
                    public: symbol(&handle, c"mbx_rsa_public_mb8").map_err(load_error)?,
                    public_method: symbol(&handle, c"mbx_RSA2K_pub65537_Method")
                        .map_err(load_error)?,
                    scratch_words: 0,
                },
            )
        };
        // The functions were copied out of their symbols: from here on nothing would keep the library
        // from being unloaded under them.
        mem::forget(handle);
        // SAFETY: takes a number and asks the CPU. It comes first because the rest may only be called
        // where it says so.
        if unsafe { is_applicable(0) } == 0 {
            return Err(BatchError::Cpu { library: name });
        }
        // SAFETY: the arguments are the library's own tables, which are static.
        let bytes = unsafe {
            scratch_size((library.private_method)()).max(scratch_size((library.public_method)()))
        };
        match usize::try_from(bytes) {
            // 55 KB in the release of 2026.
            Ok(bytes) if (1..=1 << 20).contains(&bytes) => Ok(Self {
                scratch_words: bytes.div_ceil(8),
                ..library
            }),
            _ => Err(BatchError::Scratch {
                library: name,
                bytes: bytes.into(),
            }),
        }
    }
}

/// SAFETY: as [`Handle::get`]: the symbol has to be of that type.
unsafe fn symbol<T: Copy>(handle: &Handle, name: &CStr) -> Result<T, libloading::Error> {
    // SAFETY: the caller's.
    unsafe { handle.get::<T>(name) }.map(|symbol| *symbol)
}

fn load(path: &Path) -> Result<Handle, libloading::Error> {
    if let Some(directory) = path.parent().filter(|parent| parent.is_absolute()) {
        for name in COMPANIONS {
            // SAFETY: as below. Other builds have none of these files, and do not miss them.
            if let Ok(handle) = unsafe { Handle::open(Some(directory.join(name)), FLAGS) } {
                mem::forget(handle);
            }
        }
    }
    // SAFETY: loading runs the initialisers of the file and of what it needs, and `open` asks that they
    // do no harm. Those of this library, of Intel's companions and of OpenSSL, which it needs too, set
    // up their own tables. The operator named the file or installed it for the whole system.
    unsafe { Handle::open(Some(path), FLAGS) }
}

/// All symbols at once, so that one that is missing shows here and not under the first signature;
/// and for this library only, so that its OpenSSL stands in nobody's way.
const FLAGS: c_int = RTLD_NOW | RTLD_LOCAL;

impl MultiBuffer for Library {
    fn sign(&self, lanes: &[Lane<'_>; LANES], signatures: &mut [Number; LANES]) -> bool {
        let mut scratch = vec![0u64; self.scratch_words];
        let from = lanes.map(|lane| lane.input.as_ptr());
        let to = signatures.each_mut().map(|number| number.as_mut_ptr());
        let part = |part: for<'k> fn(&Lane<'k>) -> &'k Factor| {
            lanes.each_ref().map(|lane| part(lane).as_ptr())
        };
        let p = part(|lane| &lane.key.p);
        let q = part(|lane| &lane.key.q);
        let dp = part(|lane| &lane.key.dp);
        let dq = part(|lane| &lane.key.dq);
        let q_inverse = part(|lane| &lane.key.q_inverse);
        // SAFETY: each of the seven arrays has eight pointers and lives until the call returns. Inputs
        // and signatures have 2048 bits, the parts of a key 1024 (their types say so), which is what
        // the function reads and writes for `BITS`; the signatures are borrowed mutably and overlap
        // nothing. The scratch memory has at least the size that the library named for this very
        // table, which is static. The function keeps no pointer and has no state: any thread may call.
        let status = unsafe {
            (self.private)(
                from.as_ptr(),
                to.as_ptr(),
                p.as_ptr(),
                q.as_ptr(),
                dp.as_ptr(),
                dq.as_ptr(),
                q_inverse.as_ptr(),
                BITS,
                (self.private_method)(),
                scratch.as_mut_ptr().cast(),
            )
        };
        // Parts of keys passed through, and the library does not wipe all of them.
        scratch.fill(0);
        std::hint::black_box(&scratch);
        // Four bits for each lane.
        status == 0
    }

    fn open(
        &self,
        lanes: &[Lane<'_>; LANES],
        signatures: &[Number; LANES],
        opened: &mut [Number; LANES],
    ) -> bool {
        let mut scratch = vec![0u64; self.scratch_words];
        let from = signatures.each_ref().map(|number| number.as_ptr());
        let to = opened.each_mut().map(|number| number.as_mut_ptr());
        let modulus = lanes.map(|lane| lane.key.modulus.as_ptr());
        // SAFETY: as in `sign`; all numbers here have 2048 bits.
        let status = unsafe {
            (self.public)(
                from.as_ptr(),
                to.as_ptr(),
                modulus.as_ptr(),
                BITS,
                (self.public_method)(),
                scratch.as_mut_ptr().cast(),
            )
        };
        status == 0
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libcrypto_mb")
    }
}
