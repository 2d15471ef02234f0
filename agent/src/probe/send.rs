//! Marked datagrams from one pod network to another.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, time::sleep};
use topology::probe::{Sent, mark::MARKED_PORT};

use super::ProbeError;
use crate::os::packets::set_option;

/// How many are sent.
const DATAGRAMS: u32 = 20;
/// The pause after each, so that no two are joined on the way.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the last may be on its way.
const JOURNEY: Duration = Duration::from_millis(300);

/// Sends datagrams with `payload` between `ends`, and waits until they have arrived.
pub async fn send((from, to): (IpAddr, IpAddr), payload: &[u8]) -> Result<Sent, ProbeError> {
    let socket = open(from).map_err(ProbeError::system("open a socket with a pod's address"))?;
    let mut datagrams = 0;
    for _ in 0..DATAGRAMS {
        // One that the tunnel has no room for, or no way, is one that was not sent.
        datagrams += u32::from(socket.send_to(payload, SocketAddr::new(to, MARKED_PORT)).await.is_ok());
        sleep(PAUSE).await;
    }
    sleep(JOURNEY).await;
    Ok(Sent { from, to, datagrams })
}

/// A socket with the address `from`, which the host need not have: not every CNI plugin gives it one in
/// its pods' network.
fn open(from: IpAddr) -> io::Result<UdpSocket> {
    let socket = match from {
        IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?,
        IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?,
    };
    match from {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1)?,
    }
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}
