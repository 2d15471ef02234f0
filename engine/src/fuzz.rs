//! Entry points for fuzzers: the parsers of everything that comes from outside.
//!
//! Not part of the API. Each takes any bytes and must neither panic nor run long.

use crate::coalesce::{Coalescer, Joinable, Verdict};
use crate::segment::Segments;
use crate::uapi::request;

/// A frame as read from TUN.
pub fn frame_from_tun(frame: &mut [u8]) {
    if let Some(mut segments) = Segments::of(frame) {
        let mut out = vec![0; segments.longest()];
        while segments.next_into(&mut out).is_some() {}
    }
}

/// Inner packets of a peer; the first byte of each piece is its length.
pub fn packets_from_peer(bytes: &[u8]) {
    let mut coalescer = Coalescer::default();
    let mut at = 0;
    while let Some(len) = bytes.get(at) {
        let end = (at + 1 + usize::from(*len)).min(bytes.len());
        coalescer.push(bytes, at + 1..end, Joinable { tcp: true, udp: true });
        at = end;
    }
    coalescer.for_each_frame(bytes, |_| Verdict::Done);
}

/// The text of a configuration request.
pub fn configuration_request(text: &str) {
    // Whether it is understood does not matter here.
    let _ = request::parse(text, |_| None);
}
