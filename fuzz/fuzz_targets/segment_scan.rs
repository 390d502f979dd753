//! See `hikyaku_fuzz::spool::segment_scan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::spool::segment_scan(data));
