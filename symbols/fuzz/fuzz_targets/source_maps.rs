#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sandscope_symbols_fuzz::source_maps(input));
