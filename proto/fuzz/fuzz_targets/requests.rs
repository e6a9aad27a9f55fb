#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sandscope_proto_fuzz::requests(input));
