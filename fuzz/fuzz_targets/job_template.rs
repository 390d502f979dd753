//! See `hikyaku_fuzz::job::template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::job::template(data));
