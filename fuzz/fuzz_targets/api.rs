//! A client of the API sends whatever the fuzzer comes up with.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::api::understand(bytes));
