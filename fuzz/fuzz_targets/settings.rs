//! See `hikyaku_fuzz::tables::settings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::tables::settings(data));
