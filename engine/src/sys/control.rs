//! Ancillary data (`cmsg(3)`) as bytes: the little of it that UDP offloads and ECN need.
//!
//! The layout is `struct cmsghdr` and the alignment rules of `CMSG_ALIGN` in `linux/socket.h`.
#![forbid(unsafe_code)]

use std::mem::size_of;

const HEADER: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = size_of::<usize>();

/// Room for every message used here, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control {
    pub(super) bytes: [u8; Self::CAPACITY],
    pub(super) len: usize,
}

impl Control {
    pub(crate) const CAPACITY: usize = 128;
    pub(crate) const EMPTY: Self = Self { bytes: [0; Self::CAPACITY], len: 0 };

    /// Appends one message. The callers' messages are few and small: they always fit.
    pub(crate) fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let end = self.len + HEADER + data.len().next_multiple_of(ALIGN);
        let Some(space) = self.bytes.get_mut(self.len..end) else {
            debug_assert!(false, "ancillary data does not fit");
            return;
        };
        space.fill(0);
        let (header, body) = space.split_at_mut(HEADER);
        header[..ALIGN].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        header[HEADER - 8..HEADER - 4].copy_from_slice(&level.to_ne_bytes());
        header[HEADER - 4..].copy_from_slice(&kind.to_ne_bytes());
        body[..data.len()].copy_from_slice(data);
        self.len = end;
    }

    /// Every message as (level, type, data); stops at the first one that makes no sense.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
        let mut rest = self.bytes.get(..self.len).unwrap_or_default();
        std::iter::from_fn(move || {
            let (header, _) = rest.split_at_checked(HEADER)?;
            let len = usize::from_ne_bytes(header[..ALIGN].try_into().ok()?);
            let level = libc::c_int::from_ne_bytes(header[HEADER - 8..HEADER - 4].try_into().ok()?);
            let kind = libc::c_int::from_ne_bytes(header[HEADER - 4..].try_into().ok()?);
            let data = rest.get(HEADER..len)?;
            rest = rest.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
            Some((level, kind, data))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_round_trip() {
        let mut control = Control::EMPTY;
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &1452u16.to_ne_bytes());
        control.push(libc::IPPROTO_IP, libc::IP_TOS, &[1]);
        let read: Vec<_> = control.messages().collect();
        let segment = 1452u16.to_ne_bytes();
        assert_eq!(
            read,
            [(libc::SOL_UDP, libc::UDP_SEGMENT, &segment[..]), (libc::IPPROTO_IP, libc::IP_TOS, &[1][..])]
        );
    }

    #[test]
    fn a_length_beyond_the_buffer_ends_the_list() {
        let mut control = Control::EMPTY;
        control.push(libc::SOL_UDP, libc::UDP_GRO, &7u32.to_ne_bytes());
        control.bytes[..ALIGN].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(control.messages().count(), 0);
    }
}
