//! Datagrams to another segment's announced endpoint, and what the network says to them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, sleep, timeout},
};
use topology::{
    Endpoint, NodeName,
    probe::{Answer, Knocked, Token, Way},
};

use super::ProbeError;
use crate::{os::packets::set_option, ping};

/// How many are sent: one may get lost.
const KNOCKS: usize = 3;
/// The pause after each, in which an error may come back.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an error is waited for after the last one.
const LIMIT: Duration = Duration::from_millis(700);
/// How long a tunnel may take to come alive.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(6);
/// How long a resolver may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// Knocks at the endpoint that `way` leads to, as the node `own`, and tries the tunnel meanwhile.
pub async fn knock(own: &NodeName, way: &Way, token: &Token) -> Result<Knocked, ProbeError> {
    let payload = token.knock(own);
    let (datagrams, tunnel) = tokio::join!(at(way.endpoint.as_ref(), &payload), is_tunnel_alive(way));
    let (endpoint, answer) = datagrams.map_err(ProbeError::system("send datagrams"))?;
    let tunnel = tunnel.map_err(ProbeError::system("send echoes"))?;
    Ok(Knocked { endpoint, answer, tunnel })
}

async fn at(endpoint: Option<&Endpoint>, payload: &[u8]) -> io::Result<(Option<SocketAddr>, Answer)> {
    let address = match endpoint {
        None => None,
        Some(Endpoint::Address(address)) => Some(*address),
        Some(Endpoint::Name(name, port)) => resolve(name, *port).await,
    };
    let Some(address) = address else { return Ok((None, Answer::Silent)) };
    let socket = open(address).await?;
    let sent = match socket.connect(address).await {
        Ok(()) => all(&socket, payload).await,
        Err(error) => Err(error),
    };
    sent.map_or_else(answer, |()| Ok(Answer::Silent)).map(|answer| (Some(address), answer))
}

async fn resolve(name: &str, port: u16) -> Option<SocketAddr> {
    let lookup = tokio::net::lookup_host((name, port));
    timeout(LOOKUP_LIMIT, lookup).await.ok()?.ok()?.next()
}

/// A socket that hears also of what may pass, such as an unreachable host (`IP_RECVERR`, ip(7)).
async fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    if to.is_ipv4() {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        Ok(socket)
    } else {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?;
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        Ok(socket)
    }
}

/// Sends all datagrams; an error is what came back to one of them.
async fn all(socket: &UdpSocket, payload: &[u8]) -> io::Result<()> {
    for _ in 0..KNOCKS {
        socket.send(payload).await?;
        sleep(PAUSE).await;
    }
    // Whoever answers is no WireGuard; the errors count.
    let mut nothing = [0; 1];
    timeout(LIMIT, socket.recv(&mut nothing)).await.unwrap_or(Ok(0)).map(drop)
}

/// What an error that the network sent says. Others are the host's own.
fn answer(error: io::Error) -> io::Result<Answer> {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Ok(Answer::Refused),
        // EPERM is how a packet filter of this very host answers, EINVAL a blackhole route.
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES | libc::EPERM | libc::EINVAL | libc::EHOSTDOWN) => {
            Ok(Answer::Unreachable)
        }
        _ => Err(error),
    }
}

/// Whether an echo comes back. While there is no session, WireGuard asks for one every five seconds
/// (`REKEY_TIMEOUT`, WireGuard paper section 6.1): so long, whoever watches has something to see.
async fn is_tunnel_alive(way: &Way) -> io::Result<bool> {
    let addresses = || way.wireguard_ips.iter().take(1).copied().collect();
    let begin = Instant::now();
    while begin.elapsed() < HANDSHAKE_LIMIT {
        if !ping::round_trips(addresses()).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
