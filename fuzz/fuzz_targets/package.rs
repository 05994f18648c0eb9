//! `package` of `checks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoders::checks::package(data));
