//! See `hikyaku_fuzz::ingest::eml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::ingest::eml(data));
