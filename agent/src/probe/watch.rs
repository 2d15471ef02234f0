//! A watch: counts what passes the host's interfaces for a few seconds.

use std::{collections::BTreeMap, io, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::oneshot,
    task::{self, JoinHandle},
    time::{Instant, timeout, timeout_at},
};
use topology::{
    InterfaceName,
    probe::{Sightings, Token, WATCH_SECONDS, Watching, mark::Lens, underlay},
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
    /// Begins to look through `lens` at what passes `tunnel` and the interfaces that lead outside; those
    /// in the network of `own_pods` do not. When it returns, nothing is missed any more.
    pub async fn begin(tunnel: &InterfaceName, own_pods: &[IpNet], lens: Lens) -> Result<(Self, Watching), ProbeError> {
        let (token, port) = (lens.token, lens.port);
        let netlink = Netlink::open()?;
        let interfaces = facts::gather(&netlink, &[]).await?.interfaces;
        let interfaces: BTreeMap<_, _> =
            interfaces.into_iter().map(|(name, interface)| (name, interface.addresses)).collect();
        let outside = underlay(&interfaces, tunnel, own_pods);
        let numbers = links::all(&netlink).await?;
        let places = numbers.iter().filter_map(|link| match link.name == *tunnel {
            true => Some((link.index, Place::Tunnel)),
            false => outside.contains(&&link.name).then_some((link.index, Place::Underlay)),
        });
        let socket = PacketSocket::open(port).map_err(ProbeError::system("watch the interfaces"))?;
        let (stop, stopped) = oneshot::channel();
        let count = Count { socket, lens, places: places.collect(), sightings: Sightings::default() };
        let watching = Watching { interfaces: outside.iter().map(ToString::to_string).collect() };
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
        self.sightings.add(&self.lens, sight, *place == Place::Tunnel, seen.direction);
    }
}
