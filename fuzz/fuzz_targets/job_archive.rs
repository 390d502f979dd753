//! See `hikyaku_fuzz::job::archive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::job::archive(data));
