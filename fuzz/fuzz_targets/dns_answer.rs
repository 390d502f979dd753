//! See `hikyaku_fuzz::dns::dns_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hikyaku_fuzz::dns::dns_answer(data));
