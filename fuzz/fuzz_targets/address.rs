//! See `hikyaku_fuzz::mail::address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::mail::address(data));
