//! Waking a thread that waits, in poll or for nothing else: a pipe whose content means nothing.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

pub(crate) struct Wake {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer })
    }

    /// Makes [`fd`](Self::fd) readable.
    pub(crate) fn signal(&self) {
        // Cannot fail: we hold the other end, and nobody signals 65,536 times without a wait.
        let _ = (&self.writer).write(&[0]);
    }

    /// Waits for [`signal`](Self::signal), or for nothing where the call is interrupted. Does not wait when
    /// [`fd`](Self::fd) is readable, and makes it not so.
    pub(crate) fn wait(&self) {
        // What is left over wakes the thread once more, which does no harm.
        let _ = (&self.reader).read(&mut [0; 64]);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
