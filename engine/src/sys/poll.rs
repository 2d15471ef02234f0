//! Waiting for several descriptors at once (`poll(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::check;

/// Waits until one of the descriptors can be read, has failed, or the time is up.
/// Returns one flag for each; an interrupted wait returns with none set.
pub(crate) fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut list = fds.map(|fd| libc::pollfd {
        // A negative descriptor is one that poll skips.
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let milliseconds = timeout.map_or(-1, |t| t.as_millis().min(i32::MAX as u128) as libc::c_int);
    // SAFETY: `list` is an array of N initialised pollfd, valid for the whole call, and the
    // descriptors are borrowed, so they stay open until it returns.
    let result = unsafe { libc::poll(list.as_mut_ptr(), N as libc::nfds_t, milliseconds) };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
        Ok(_) => Ok(list.map(|entry| entry.revents != 0)),
    }
}
