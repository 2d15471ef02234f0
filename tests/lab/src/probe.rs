//! Single probes from one namespace to an address: HTTP and ICMP, with latency.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::patience;
use crate::servers::{Answer, HTTP_PORT};
use crate::space::Space;
use crate::sys;

/// Longest wait for one answer, times [`patience`].
const PROBE_LIMIT: Duration = Duration::from_secs(2);

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
    let socket = sys::icmp_socket(target.is_ipv6())?;
    socket.connect(SocketAddr::new(target, 0))?;
    socket.set_read_timeout(Some(PROBE_LIMIT * patience()))?;
    // Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443); the kernel fills in the
    // checksum and the identifier.
    let mut request = [0_u8; 16];
    request[0] = if target.is_ipv6() { 128 } else { 8 };
    request[7] = 1;
    let start = Instant::now();
    socket.send(&request)?;
    let mut reply = [0_u8; 64];
    let length = socket.recv(&mut reply)?;
    if length != request.len() {
        bail!("reply of {length} bytes");
    }
    Ok(start.elapsed())
}
