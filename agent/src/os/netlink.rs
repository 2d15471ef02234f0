//! Requests to the kernel over one netlink(7) socket.
//!
//! A thin layer of our own over the connection of `netlink-proto`, because three things matter that the
//! request types of `rtnetlink` and `genetlink` hide: whether a dump was consistent (`NLM_F_DUMP_INTR`), the kernel's explanation of
//! an error (extended acknowledgement, linux/netlink.h), and that a second dump on one socket fails
//! with `EBUSY` while the first one runs.

use std::{fmt, io, sync::Arc, time::Duration};

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::proto::{ConnectionHandle, new_connection};
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::sync::Mutex;

use super::{Error, Refusal};

/// How often a dump is begun before it is given up.
const DUMP_ATTEMPTS: usize = 10;

/// The pause before a dump is begun again, multiplied by the number of attempts made.
const DUMP_PAUSE: Duration = Duration::from_millis(2);

/// Size of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;

/// Attribute of an extended acknowledgement that carries text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What can be sent and received over a [`Channel`].
pub trait Message: NetlinkSerializable + NetlinkDeserializable + fmt::Debug + Clone + Send + Unpin + 'static {}

impl<T: NetlinkSerializable + NetlinkDeserializable + fmt::Debug + Clone + Send + Unpin + 'static> Message for T {}

/// A socket of one netlink protocol, in the network namespace that it was opened in. Clones share it.
#[derive(Clone, Debug)]
pub struct Channel<T: fmt::Debug> {
    handle: ConnectionHandle<T>,
    dumps: Arc<Mutex<()>>,
}

/// A socket for links, addresses, routes and rules (rtnetlink(7)).
pub type Netlink = Channel<RouteNetlinkMessage>;

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Self::to(NETLINK_ROUTE)
    }
}

impl<T: Message> Channel<T> {
    /// Opens a socket in the calling thread's network namespace. Its task runs in the current tokio
    /// runtime and ends with the last clone; if it should end before, every request says so.
    pub(super) fn to(protocol: isize) -> Result<Self, Error> {
        let (mut connection, handle, _) = new_connection::<T>(protocol).map_err(Error::Socket)?;
        // So that the end of a dump and an acknowledgement differ from a closed socket.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        let socket = connection.socket_mut().socket_mut();
        // Each is an improvement that older kernels lack, none is relied upon.
        _ = socket.set_ext_ack(true);
        _ = socket.set_cap_ack(true);
        _ = socket.set_netlink_get_strict_chk(true);
        tokio::spawn(connection);
        Ok(Self { handle, dumps: Arc::default() })
    }

    /// Everything that `request` lists, read in one consistent piece.
    pub(super) async fn dump(&self, request: T) -> Result<Vec<T>, Refusal> {
        let _one_at_a_time = self.dumps.lock().await;
        for attempt in 1..=DUMP_ATTEMPTS {
            match self.dump_once(request.clone()).await {
                Ok(Some(list)) => return Ok(list),
                Ok(None) => {}
                // The dump of a caller that was cancelled is still being read.
                Err(refusal) if matches!(refusal.errno(), Some(libc::EBUSY | libc::EINTR)) => {}
                Err(refusal) => return Err(refusal),
            }
            tokio::time::sleep(DUMP_PAUSE * attempt as u32).await;
        }
        Err(Refusal::Unsettled)
    }

    /// `None` if something changed while the kernel walked the list.
    async fn dump_once(&self, request: T) -> Result<Option<Vec<T>>, Refusal> {
        let mut list = Vec::new();
        let mut consistent = true;
        let mut answers = self.send(request, NLM_F_DUMP)?;
        while let Some(answer) = answers.next().await {
            consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(entry) => list.push(entry),
                NetlinkPayload::Error(error) => acknowledged(answer.header.flags, &error)?,
                NetlinkPayload::Done(done) if done.code < 0 => return Err(refused(done.code, None)),
                NetlinkPayload::Done(_) => return Ok(consistent.then_some(list)),
                _ => {}
            }
        }
        Err(Refusal::Closed)
    }

    /// The one answer to `request`.
    pub(super) async fn get(&self, request: T) -> Result<T, Refusal> {
        let mut answers = self.send(request, 0)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(entry) => return Ok(entry),
                NetlinkPayload::Error(error) => acknowledged(answer.header.flags, &error)?,
                _ => {}
            }
        }
        Err(Refusal::Closed)
    }

    /// Has the kernel do `request`, with `NLM_F_…` flags beyond the usual ones.
    pub(super) async fn change(&self, request: T, flags: u16) -> Result<(), Refusal> {
        let mut answers = self.send(request, NLM_F_ACK | flags)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return acknowledged(answer.header.flags, &error);
            }
        }
        Err(Refusal::Closed)
    }

    fn send(&self, request: T, flags: u16) -> Result<impl futures::Stream<Item = NetlinkMessage<T>> + Unpin, Refusal> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
        message.header.flags = NLM_F_REQUEST | flags;
        self.handle.request(message, SocketAddr::new(0, 0)).map_err(|_| Refusal::Closed)
    }
}

fn refused(code: i32, reason: Option<String>) -> Refusal {
    Refusal::Kernel { error: io::Error::from_raw_os_error(code.saturating_abs()), reason }
}

/// An `NLMSG_ERROR` with code 0 is an acknowledgement.
fn acknowledged(flags: u16, error: &ErrorMessage) -> Result<(), Refusal> {
    match error.code {
        None => Ok(()),
        Some(code) => Err(refused(code.get(), explanation(flags, &error.header))),
    }
}

/// The text in an extended acknowledgement: attributes after the request, which is cut to its header
/// if the kernel could.
fn explanation(flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = if flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        let length = u32::from_ne_bytes(payload.first_chunk().copied()?);
        usize::try_from(length).ok()?.checked_next_multiple_of(4)?
    };
    let attributes = NlasIterator::new(payload.get(request..)?);
    let text = attributes.filter_map(Result::ok).find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text.value()).trim_end_matches('\0').trim_end_matches('.').to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(request: usize, text: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; request];
        payload[..4].copy_from_slice(&u32::try_from(request).unwrap().to_ne_bytes());
        payload.extend(u16::try_from(4 + text.len()).unwrap().to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(text);
        payload
    }

    #[test]
    fn the_kernels_explanation_is_found_whether_or_not_the_request_is_echoed() {
        let why = Some("Nexthop has invalid gateway".to_owned());
        let text = b"Nexthop has invalid gateway.\0\0\0\0";
        assert_eq!(explanation(NLM_F_ACK_TLVS | NLM_F_CAPPED, &payload(16, text)), why);
        assert_eq!(explanation(NLM_F_ACK_TLVS, &payload(64, text)), why);
    }

    #[test]
    fn a_broken_explanation_is_none() {
        let whole = payload(16, b"text\0");
        assert_eq!(explanation(0, &whole), None);
        assert_eq!(explanation(NLM_F_ACK_TLVS, &[]), None);
        for length in 0..whole.len() - 1 {
            assert_eq!(explanation(NLM_F_ACK_TLVS | NLM_F_CAPPED, &whole[..length]), None, "{length}");
        }
        let mut lying = payload(16, b"text\0");
        lying[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(explanation(NLM_F_ACK_TLVS, &lying), None);
    }
}
