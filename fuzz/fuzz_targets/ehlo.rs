//! See `hikyaku_fuzz::smtp::ehlo`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::smtp::ehlo(data));
