//! What answers in every pod and on every host: who are you, and from where did I come?
//!
//! * TCP port [`HTTP_PORT`]: any GET is answered with `{"name":…,"from":…}`: the name of the space and the
//!   address that the request came from.
//! * UDP port [`ECHO_PORT`]: a datagram is sent back as it came.
//!
//! The sockets are opened inside the namespace; serving them needs no thread there.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::space::Space;
use crate::sys;

/// Where the HTTP server listens.
pub const HTTP_PORT: u16 = 80;
/// Where the UDP echo server listens.
pub const ECHO_PORT: u16 = 7;

/// The answer of the HTTP server.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Name of the host or pod that answered.
    pub name: String,
    /// The source address it saw.
    pub from: IpAddr,
}

/// The running servers of one space; they end when this is dropped.
#[derive(Debug)]
pub struct Servers(Vec<AbortHandle>);

impl Servers {
    /// Starts both servers in `space`.
    pub fn start(runtime: &Handle, space: &Space) -> Result<Servers> {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (http, echo) = space
            .run(|| -> io::Result<_> {
                let http = std::net::TcpListener::bind(any(HTTP_PORT))?;
                http.set_nonblocking(true)?;
                let echo = std::net::UdpSocket::bind(any(ECHO_PORT))?;
                echo.set_nonblocking(true)?;
                sys::enlarge_receive_buffer(&echo)?;
                Ok((http, echo))
            })?
            .with_context(|| format!("open the server sockets of {}", space.name()))?;
        let _runtime = runtime.enter();
        let name = Arc::<str>::from(space.name());
        let http = runtime.spawn(serve_http(TcpListener::from_std(http)?, name));
        let echo = runtime.spawn(serve_echo(UdpSocket::from_std(echo)?));
        Ok(Servers(vec![http.abort_handle(), echo.abort_handle()]))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn serve_http(listener: TcpListener, name: Arc<str>) {
    loop {
        // What fails is one connection (reset before it was accepted), never the listener.
        if let Ok((stream, from)) = listener.accept().await {
            tokio::spawn(answer(stream, from.ip().to_canonical(), name.clone()));
        }
    }
}

async fn answer(mut stream: TcpStream, from: IpAddr, name: Arc<str>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 || request.len() > 1 << 16 {
            return Ok(());
        }
    }
    let body = serde_json::to_string(&Answer { name: name.to_string(), from })?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}

async fn serve_echo(socket: UdpSocket) {
    let mut datagram = vec![0; 1 << 16];
    loop {
        // Errors are about earlier datagrams (ICMP unreachable); the socket goes on.
        if let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from).await;
        }
    }
}
