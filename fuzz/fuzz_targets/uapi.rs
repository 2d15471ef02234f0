//! Requests at the configuration socket (`wg set`, `wg syncconf`): reading any text never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| engine::fuzz::configuration_request(text));
