//! The four messages as they stand in a datagram (WireGuard paper, section 5.4). Numbers are little-endian.

use super::crypto::{MAC, TAG, XNONCE};

/// Length of an initiation: type, sender, ephemeral, static, timestamp, two MACs.
pub(crate) const INITIATION: usize = 148;
/// Length of a response: type, sender, receiver, ephemeral, nothing (sealed), two MACs.
pub(crate) const RESPONSE: usize = 92;
/// Length of a cookie reply: type, receiver, nonce, sealed cookie.
pub(crate) const COOKIE_REPLY: usize = 64;
/// What stands before the sealed packet: type, receiver, counter.
pub(crate) const DATA_HEADER: usize = 16;
/// Bytes a data message has beyond the packet.
pub(crate) const DATA_OVERHEAD: usize = DATA_HEADER + TAG;
/// Bytes of the two MACs at the end of an initiation and of a response.
pub(crate) const MACS: usize = 2 * MAC;

/// Type of a data message, with the three zero bytes behind it.
pub(crate) const TYPE_DATA: u32 = 4;
const TYPE_INITIATION: u32 = 1;
const TYPE_RESPONSE: u32 = 2;
const TYPE_COOKIE_REPLY: u32 = 3;

/// A handshake message of the right type and length.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handshake<'a> {
    Initiation(&'a [u8; INITIATION]),
    Response(&'a [u8; RESPONSE]),
    CookieReply(&'a [u8; COOKIE_REPLY]),
}

impl<'a> Handshake<'a> {
    /// `None` if it is none.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        match u32_at(message, 0)? {
            TYPE_INITIATION => message.try_into().ok().map(Self::Initiation),
            TYPE_RESPONSE => message.try_into().ok().map(Self::Response),
            TYPE_COOKIE_REPLY => message.try_into().ok().map(Self::CookieReply),
            _ => None,
        }
    }

    /// The index of ours that the message answers, if it is an answer.
    pub(crate) fn receiver(&self) -> Option<u32> {
        match self {
            Self::Initiation(_) => None,
            Self::Response(message) => u32_at(&message[..], 8),
            Self::CookieReply(message) => u32_at(&message[..], 4),
        }
    }
}

/// An initiation's head.
pub(crate) fn new_initiation(sender: u32) -> [u8; INITIATION] {
    let mut message = [0; INITIATION];
    message[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message
}

/// A response's head.
pub(crate) fn new_response(sender: u32, receiver: u32) -> [u8; RESPONSE] {
    let mut message = [0; RESPONSE];
    message[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..12].copy_from_slice(&receiver.to_le_bytes());
    message
}

/// A cookie reply.
pub(crate) fn new_cookie_reply(
    receiver: u32,
    nonce: &[u8; XNONCE],
    cookie: &[u8; MAC],
    tag: &[u8; TAG],
) -> [u8; COOKIE_REPLY] {
    let mut message = [0; COOKIE_REPLY];
    message[..4].copy_from_slice(&TYPE_COOKIE_REPLY.to_le_bytes());
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    message[8..32].copy_from_slice(nonce);
    message[32..48].copy_from_slice(cookie);
    message[48..].copy_from_slice(tag);
    message
}

/// A data message's head.
pub(crate) fn data_header(receiver: u32, counter: u64) -> [u8; DATA_HEADER] {
    let mut header = [0; DATA_HEADER];
    header[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
    header[4..8].copy_from_slice(&receiver.to_le_bytes());
    header[8..].copy_from_slice(&counter.to_le_bytes());
    header
}

/// The number at `at`; `None` if the message ends before.
pub(crate) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The number at `at`; `None` if the message ends before.
pub(crate) fn u64_at(message: &[u8], at: usize) -> Option<u64> {
    message.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_length_is_a_handshake() {
        let initiation = new_initiation(7);
        assert!(matches!(Handshake::parse(&initiation), Some(Handshake::Initiation(_))));
        assert!(Handshake::parse(&initiation[..147]).is_none());
        let response = new_response(7, 8);
        assert!(matches!(Handshake::parse(&response), Some(Handshake::Response(_))));
        assert!(Handshake::parse(&[response.as_slice(), &[0]].concat()).is_none());
        assert!(Handshake::parse(&data_header(1, 2)).is_none());
        assert!(Handshake::parse(&[]).is_none());
        assert!(Handshake::parse(&[1, 0, 0, 1]).is_none(), "the three bytes behind the type are zero");
        let receiver = |message: &[u8]| Handshake::parse(message).unwrap().receiver();
        assert_eq!((receiver(&initiation), receiver(&response)), (None, Some(8)));
        assert_eq!(receiver(&new_cookie_reply(9, &[0; XNONCE], &[0; MAC], &[0; TAG])), Some(9));
    }
}
