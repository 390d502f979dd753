//! See `hikyaku_fuzz::spool::indoubt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::spool::indoubt(data));
