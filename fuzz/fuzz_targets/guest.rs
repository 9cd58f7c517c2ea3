//! A guest writes to the configuration space and the BARs of a saved device whatever the fuzzer comes up with.
#![no_main]

libfuzzer_sys::fuzz_target!(|program: &[u8]| devices::vfio::run_guest_program(program));
