//! See `hikyaku_fuzz::tables::profile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::tables::profile(data));
