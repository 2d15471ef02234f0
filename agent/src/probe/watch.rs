//! A watch: counts what passes the host's interfaces for a few seconds.

use std::{collections::BTreeMap, fs, io, time::Duration};

use tokio::{
    sync::oneshot,
    task::{self, JoinHandle},
    time::{Instant, timeout, timeout_at},
};
use topology::{
    InterfaceName,
    probe::{Sightings, Token, WATCH_SECONDS, Watching, Way, mark::Lens, underlay},
};

use super::ProbeError;
use crate::os::{
    Netlink, facts, links,
    packets::{PacketSocket, Seen},
};

/// No packet is longer, also not several that travel through the kernel as one.
const LONGEST: usize = 1 << 16;

/// After so many packets others get a turn.
const BATCH: u64 = 64;

/// How long the queue has to be empty for the watch to have seen all.
const QUIET: Duration = Duration::from_millis(20);

/// A watch that runs, or has ended and waits to be asked.
pub struct Watch {
    token: Token,
    stop: Option<oneshot::Sender<()>>,
    counting: JoinHandle<io::Result<Sightings>>,
}

impl Watch {
    /// Begins to look for `token` and for packets between the pods of both ends of `way`. When it returns,
    /// nothing is missed any more.
    pub async fn begin(tunnel: &InterfaceName, way: &Way, token: Token) -> Result<(Self, Watching), ProbeError> {
        let netlink = Netlink::open()?;
        let interfaces = facts::gather(&netlink, &[]).await?.interfaces;
        let interfaces: BTreeMap<_, _> =
            interfaces.into_iter().map(|(name, interface)| (name, interface.addresses)).collect();
        let outside = underlay(&interfaces, tunnel, &way.own_pods);
        let numbers = links::all(&netlink).await?;
        let places = numbers.iter().filter_map(|link| match link.name == *tunnel {
            true => Some((link.index, Place::Tunnel)),
            false => outside.contains(&&link.name).then_some((link.index, Place::Underlay)),
        });
        let socket = PacketSocket::open(way.listen_port).map_err(ProbeError::system("watch the interfaces"))?;
        let (stop, stopped) = oneshot::channel();
        let count = Count {
            socket,
            lens: Lens { token, port: way.listen_port, here: way.here.clone(), there: way.there.clone() },
            places: places.collect(),
            sightings: Sightings::default(),
        };
        let watching = Watching {
            interfaces: outside.iter().map(ToString::to_string).collect(),
            addresses: interfaces.values().flatten().copied().collect(),
            bound: is_bound(way.listen_port),
        };
        Ok((Self { token, stop: Some(stop), counting: task::spawn(count.run(stopped)) }, watching))
    }

    /// What it looks for.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Whether it still counts.
    pub fn is_running(&self) -> bool {
        !self.counting.is_finished()
    }

    /// Ends it; gives what it has seen.
    pub async fn end(mut self) -> Result<Sightings, ProbeError> {
        // One that has ended by itself does not hear it.
        drop(self.stop.take());
        let counted = (&mut self.counting).await.map_err(io::Error::other).flatten();
        counted.map_err(ProbeError::system("watch the interfaces"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.counting.abort();
    }
}

/// What an interface is to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tunnel,
    Underlay,
}

struct Count {
    socket: PacketSocket,
    lens: Lens,
    places: BTreeMap<u32, Place>,
    sightings: Sightings,
}

impl Count {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> io::Result<Sightings> {
        let end = Instant::now() + Duration::from_secs(WATCH_SECONDS);
        let mut buffer = vec![0; LONGEST];
        loop {
            tokio::select! {
                biased;
                // Whether it was told to stop or there is nobody left to tell it: both end the watch.
                _ = &mut stopped => break,
                seen = timeout_at(end, self.socket.next(&mut buffer)) => match seen {
                    Ok(seen) => self.look(seen?, &buffer),
                    Err(_) => break,
                },
            }
            if self.sightings.packets.is_multiple_of(BATCH) {
                task::yield_now().await;
            }
        }
        // What has passed already may still be in the queue.
        while let Ok(seen) = timeout(QUIET, self.socket.next(&mut buffer)).await {
            self.look(seen?, &buffer);
            if Instant::now() > end {
                break;
            }
        }
        self.sightings.missed = self.socket.missed()?.into();
        Ok(self.sightings)
    }

    fn look(&mut self, seen: Seen, buffer: &[u8]) {
        let Some(place) = self.places.get(&seen.interface) else { return };
        let packet = buffer.get(..seen.length).unwrap_or_default();
        let sight = self.lens.judge(packet, seen.direction);
        self.sightings.add(sight, *place == Place::Tunnel, seen.direction);
    }
}

/// Whether a socket has the UDP port, also one of the kernel's own (proc(5), `/proc/net/udp`); `None` if
/// the host does not tell.
fn is_bound(port: u16) -> Option<bool> {
    let tables = ["udp", "udp6"].map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")));
    if tables.iter().all(Result::is_err) {
        return None;
    }
    Some(tables.iter().flatten().flat_map(|table| ports(table)).any(|bound| bound == port))
}

/// The local ports in a table of sockets.
fn ports(table: &str) -> impl Iterator<Item = u16> {
    let port = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).filter_map(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
                     \x20 12: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0\n\
                     \x20 13: 0000000000000000FFFF00000100007F:0035 00000000000000000000000000000000:0000 07\n\
                     broken\n  14: x:y\n";
        assert_eq!(ports(table).collect::<Vec<_>>(), [51820, 53]);
        assert_eq!(ports("").count(), 0);
    }
}
