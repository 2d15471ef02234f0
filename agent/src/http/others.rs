//! What other leaders' agents tell, for the page of this one: a browser that reaches one agent need not reach all.
//!
//! Only leaders of the own mesh are asked, at their WireGuard addresses, for their own report and nothing else, so
//! that nobody can make an agent ask anything of anybody. An answer is read before it is passed on.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};
use topology::{
    NodeName, Topology,
    report::{self, Report},
};

use super::Refusal;

/// So long an answer is shown to all who ask.
const FRESH: Duration = Duration::from_secs(2);
/// How long another agent may take; it may wait for echoes for a second.
const LIMIT: Duration = Duration::from_secs(4);
/// No more are asked at once.
const AT_ONCE: usize = 8;
/// The longest answer in bytes: that of a leader with some 10,000 peers.
const LONGEST: u64 = 4 << 20;

/// Asks other agents.
pub(super) struct Others {
    /// The port that they listen at: they have the same flags as we.
    port: u16,
    turns: Semaphore,
    known: Mutex<BTreeMap<NodeName, (Instant, Arc<Report>)>>,
}

impl Others {
    pub(super) fn new(port: u16) -> Self {
        Self { port, turns: Semaphore::new(AT_ONCE), known: Mutex::default() }
    }

    /// What the agent of `node`, a leader in `topology`, tells.
    pub(super) async fn report(&self, node: &str, topology: &Topology) -> Result<Arc<Report>, Refusal> {
        let name = NodeName::from(node);
        let segment = topology.segments.iter().find(|segment| segment.leader().name == name);
        let address = segment.and_then(|segment| segment.wireguard_ips.first());
        let address = *address
            .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "no leader of this mesh has this name\n".to_owned()))?;
        // Without turns this waits and does not fail: the semaphore is never closed.
        let _turn = self.turns.acquire().await;
        if let Some(report) = self.known(&name).await {
            return Ok(report);
        }
        let answer =
            timeout(LIMIT, ask(address, self.port)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let report = answer.and_then(|answer| read(&answer, &name)).map_err(|error| {
            let message = format!(
                "the agent at http://{}{} gives no answer: {error}\n",
                SocketAddr::new(address, self.port),
                report::PATH
            );
            Refusal(StatusCode::BAD_GATEWAY, message)
        })?;
        let report = Arc::new(report);
        self.known.lock().await.insert(name, (Instant::now(), report.clone()));
        Ok(report)
    }

    /// What was told only just now; what is older is forgotten.
    async fn known(&self, name: &NodeName) -> Option<Arc<Report>> {
        let mut known = self.known.lock().await;
        known.retain(|_, (at, _)| at.elapsed() < FRESH);
        known.get(name).map(|(_, report)| report.clone())
    }
}

/// The whole answer. HTTP/1.0 (RFC 1945) has no form of it that would need more than reading to the end.
async fn ask(address: IpAddr, port: u16) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((address, port)).await?;
    stream.write_all(format!("GET {} HTTP/1.0\r\n\r\n", report::PATH).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The report in an answer, if it is that of the node called `name`.
fn read(answer: &[u8], name: &NodeName) -> io::Result<Report> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(|| wrong("this is not HTTP"))?;
    let status = answer.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if status != b"200" {
        return Err(wrong(&format!("HTTP status {:?}", String::from_utf8_lossy(&status[..status.len().min(9)]))));
    }
    let report: Report = serde_json::from_slice(&answer[end + 4..]).map_err(|_| wrong("this is no agent's report"))?;
    if report.node != *name {
        return Err(wrong("this is another node's report"));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_report_of_the_node_that_was_asked_is_taken() {
        let report = serde_json::to_string(&Report::new("a".into(), "1.2.3", "kilo0".into())).unwrap();
        let answer = |status: &str, body: &str| format!("HTTP/1.0 {status}\r\nA: b\r\n\r\n{body}").into_bytes();
        let name = NodeName::from("a");
        assert_eq!(read(&answer("200 OK", &report), &name).unwrap().version, "1.2.3");
        for (answer, expected) in [
            (answer("200 OK", &report.replace("\"a\"", "\"b\"")), "another node's report"),
            (answer("200 OK", "<script>"), "no agent's report"),
            (answer("404 Not Found", &report), "HTTP status \"404\""),
            (b"SSH-2.0".to_vec(), "not HTTP"),
            (Vec::new(), "not HTTP"),
        ] {
            let error = read(&answer, &name).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
