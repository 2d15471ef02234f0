//! WireGuard configuration files: reading never panics, and what was read survives writing and reading again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use topology::ini::Conf;

fuzz_target!(|text: &str| {
    let Ok(conf) = Conf::parse(text) else { return };
    let written = conf.render();
    let again = Conf::parse(&written).expect("what we write can be read");
    assert_eq!(conf, again, "{}", *written);
    assert_eq!(*written, *again.render());
});
