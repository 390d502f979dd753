//! See `hikyaku_fuzz::smtp::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::smtp::session(data));
