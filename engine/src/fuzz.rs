//! What fuzzers call: not part of the API. Packets need no entry here, because their fuzz target
//! compiles the modules that cut and join them and looks at what comes out.

use crate::uapi::request;

/// The text of a configuration request.
pub fn configuration_request(text: &str) {
    // Whether it is understood does not matter here.
    let _ = request::parse(text, |_| None);
}
