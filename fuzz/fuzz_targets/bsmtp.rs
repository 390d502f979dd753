//! See `hikyaku_fuzz::ingest::bsmtp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::ingest::bsmtp(data));
