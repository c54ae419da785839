#![no_main]

// COMMAND and HELP make the whole table.
libfuzzer_sys::fuzz_target!(|data: &[u8]| raftline_fuzz::bounded(data, 2 << 20, 256, raftline::client::fuzzing::requests));
