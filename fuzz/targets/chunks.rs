#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| raftline_fuzz::bounded(data, 64 << 20, 256, raftline::kv::fuzzing::chunks));
