//! Two devices and a network that delivers anything: nothing comes out of the tunnel that did not go in.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| engine::fuzz::network(bytes));
