//! Single probes from one namespace to an address: HTTP and ICMP, with latency, and the size that passes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::patience;
use crate::servers::{Answer, HTTP_PORT};
use crate::space::Space;
use crate::sys;

/// Longest wait for one answer, times [`patience`].
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// What an HTTP probe found.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Who answered, and the source address it saw.
    pub answer: Answer,
    /// The source address as the prober has it. If it differs from what was seen, somebody translated
    /// it on the way.
    pub source: IpAddr,
    /// From before the connection was opened until the whole answer was there.
    pub latency: Duration,
}

impl Reached {
    /// Whether the source address arrived as it was sent.
    pub fn source_unchanged(&self) -> bool {
        self.answer.from == self.source
    }
}

/// Asks the HTTP server at `target`, from `space`.
pub fn http(space: &Space, target: IpAddr) -> Result<Reached> {
    space.run(|| http_here(target, "/"))?.with_context(|| describe("http", space, target))
}

/// Asks the HTTP server at `target`, from `space`, with `marker` in the request line: clear text for a
/// capture to find.
pub fn http_with_marker(space: &Space, target: IpAddr, marker: &str) -> Result<Reached> {
    space.run(|| http_here(target, &format!("/?{marker}")))?.with_context(|| describe("http", space, target))
}

/// Sends one ICMP (ICMPv6) echo request to `target`, from `space`; gives the round-trip time.
pub fn ping(space: &Space, target: IpAddr) -> Result<Duration> {
    space.run(|| ping_here(target))?.with_context(|| describe("ping", space, target))
}

fn describe(what: &str, space: &Space, target: IpAddr) -> String {
    format!("{what} from {} to {target}", space.name())
}

pub(crate) fn http_here(target: IpAddr, path: &str) -> Result<Reached> {
    http_at(SocketAddr::new(target, HTTP_PORT), path)
}

/// Asks the HTTP server at `target` from this thread's network namespace.
pub(crate) fn http_at(target: SocketAddr, path: &str) -> Result<Reached> {
    let start = Instant::now();
    let limit = PROBE_LIMIT * patience();
    let mut stream = TcpStream::connect_timeout(&target, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let latency = start.elapsed();
    let body = response.split_once("\r\n\r\n").map(|(_, body)| body);
    let body = body.ok_or_else(|| anyhow!("no HTTP response: {response:?}"))?;
    let answer = serde_json::from_str(body).with_context(|| format!("answer {body:?}"))?;
    Ok(Reached { answer, source: stream.local_addr()?.ip(), latency })
}

pub(crate) fn ping_here(target: IpAddr) -> Result<Duration> {
    let start = Instant::now();
    echo(&icmp_socket(target)?, target, ICMP_HEADER + 8)?;
    Ok(start.elapsed())
}

/// What became of a packet that must not be fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrived whole, and so did the answer.
    Answered,
    /// It does not fit: the path takes packets of this many bytes, as this kernel knows by itself or was told.
    TooBig(usize),
}

/// Sends one ICMP (ICMPv6) echo request that makes a packet of `size` bytes, from this thread's network namespace.
pub(crate) fn ping_of_size(target: IpAddr, size: usize) -> Result<Fate> {
    let is_v6 = target.is_ipv6();
    let socket = icmp_socket(target)?;
    sys::forbid_fragments(&socket, is_v6)?;
    let ip_header = if is_v6 { 40 } else { 20 };
    match echo(&socket, target, size - ip_header) {
        Ok(()) => Ok(Fate::Answered),
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
            let to_anybody = UdpSocket::bind(if is_v6 { "[::]:0" } else { "0.0.0.0:0" })?;
            to_anybody.connect(SocketAddr::new(target, HTTP_PORT))?;
            Ok(Fate::TooBig(sys::path_mtu(&to_anybody, is_v6)?))
        }
        Err(error) => Err(error.into()),
    }
}

fn icmp_socket(target: IpAddr) -> io::Result<UdpSocket> {
    let socket = sys::icmp_socket(target.is_ipv6())?;
    socket.connect(SocketAddr::new(target, 0))?;
    socket.set_read_timeout(Some(PROBE_LIMIT * patience()))?;
    Ok(socket)
}

/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443).
const ICMP_HEADER: usize = 8;

/// Sends an echo request of `length` bytes, ICMP's header among them, and waits for the reply.
fn echo(socket: &UdpSocket, target: IpAddr, length: usize) -> io::Result<()> {
    // The kernel fills in the checksum and the identifier.
    let mut request = vec![0_u8; length];
    request[0] = if target.is_ipv6() { 128 } else { 8 };
    request[7] = 1;
    socket.send(&request)?;
    let mut reply = vec![0_u8; length + 1];
    loop {
        match socket.recv(&mut reply) {
            Ok(received) if received == length => return Ok(()),
            Ok(received) => return Err(io::Error::other(format!("reply of {received} bytes, not {length}"))),
            // The process was stopped for a while: with a time limit the kernel does not go on by itself (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
