//! The WireGuard protocol as values: no I/O, no clock, no randomness of its own
//! (WireGuard paper, section 5; the numbers are those of section 6 and of Linux' `messages.h`).
//!
//! `handshake` makes the keys of a [`Session`](session::Session), which seals and opens data messages and can be
//! used by many threads at once. `cookie` is the protection against floods. `timers` says what is due when.
//!
//! Why not a library: those that exist keep the transport keys behind one exclusive reference for
//! each peer, so that sealing, opening and handshakes of one peer wait for each other. The tests
//! hold `boringtun`'s implementation against this one.

pub(crate) mod cookie;
pub(crate) mod crypto;
pub(crate) mod handshake;
#[cfg(test)]
mod interop_tests;
pub(crate) mod message;
pub(crate) mod replay;
pub(crate) mod session;
pub(crate) mod timers;
mod wide;
