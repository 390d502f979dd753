//! See `hikyaku_fuzz::mail::envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::mail::envelope(data));
