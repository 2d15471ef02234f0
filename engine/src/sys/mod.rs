//! The system calls std has no safe function for. The only place with `unsafe`.
//!
//! Everything here is a thin wrapper that takes and returns safe types; decisions (what to do
//! when the kernel lacks something) are made by the callers.
#![allow(unsafe_code)]

pub(crate) mod address;
pub(crate) mod clock;
pub(crate) mod control;
pub(crate) mod poll;
pub(crate) mod scheduling;
pub(crate) mod tun;
pub(crate) mod udp;

use std::io;

/// Turns the usual "negative means errno" into a result.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
