//! The device as its owner sees it, and the life of its threads.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crate::kernel::Offloads;
use crate::net::Sockets;
use crate::shared::{Shared, Wakes};
use crate::tun::Tun;
use crate::uapi::{self, UapiSocket};
use crate::update::PeerUpdate;
use crate::wake::Wake;
use crate::{Batches, DeviceStats, Drops, Error, Options, PeerConfig, PublicKey, Secret, control, egress, ingress};

/// A WireGuard interface and the threads that move its packets.
///
/// Addresses, routes and whether the interface is up are the owner's business, as with any
/// other interface. Dropping the device ends its threads and removes the interface, unless that is
/// [persistent](Options::persistent).
pub struct Device {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Device {
    /// Makes the TUN interface, down, in the network namespace of the calling thread, where its
    /// sockets stay too, and binds them to a free UDP port. A [persistent](Options::persistent) interface that is
    /// there is taken as it is, up or down, but for the MTU.
    ///
    /// # Errors
    /// If the name is not a valid one or taken, or the kernel refuses the interface (which needs
    /// `CAP_NET_ADMIN` and `/dev/net/tun`), the sockets or the threads.
    pub fn create(options: Options) -> Result<Self, Error> {
        let tun = Tun::create(&options)?;
        let uapi = match &options.uapi_dir {
            Some(directory) => Some(UapiSocket::bind(directory, &options.name)?),
            None => None,
        };
        let queues = options.queues.get();
        let offloads = if options.offload { Offloads::of_the_kernel() } else { Ok(Offloads::NONE) };
        let offloads = offloads.map_err(|source| Error::Udp { port: 0, step: "looking for offloads", source })?;
        let sockets = Sockets::bind(0, 0, offloads, queues)?;
        let wake = || Wake::new().map_err(|source| Error::Thread { name: "pipe", source });
        let wakes = || (0..queues).map(|_| wake()).collect::<Result<_, _>>();
        let wakes = Wakes { egress: wakes()?, ingress: wakes()?, uapi: wake()? };
        let shared = Arc::new(Shared::new(tun, options.mtu, sockets, wakes));

        let mut device = Self { shared, threads: Vec::new() };
        // A thread that cannot be started ends those before it, as the device is dropped.
        device.spawn("wg-control", control::run)?;
        for queue in 0..queues {
            // The way in, too: its threads help those of the way out, which would then not wait.
            device.spawn("wg-egress", move |shared| {
                shared.wait_to_pass_packets();
                egress::run(shared, queue);
            })?;
            device.spawn("wg-ingress", move |shared| {
                shared.wait_to_pass_packets();
                ingress::run(shared, queue);
            })?;
        }
        if let Some(socket) = uapi {
            device.spawn("wg-uapi", move |shared| uapi::run(shared, &socket))?;
        }
        if !options.paused {
            device.start();
        }
        Ok(device)
    }

    fn spawn(&mut self, name: &'static str, run: impl FnOnce(&Shared) + Send + 'static) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&shared))
            .map_err(|source| Error::Thread { name, source })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Begins to move packets, if the device was made [paused](Options::paused).
    pub fn start(&self) {
        self.shared.pass_packets();
    }

    /// The interface name.
    pub fn name(&self) -> &str {
        self.shared.tun.name()
    }

    /// Sets the private key; all zeros takes it away. With another key than before, all
    /// sessions begin anew, and a peer that has this device's public key is removed.
    ///
    /// # Errors
    /// None at present.
    pub fn set_private_key(&self, key: Secret) -> Result<(), Error> {
        self.shared.set_private_key(key);
        Ok(())
    }

    /// Binds both sockets to this UDP port (0 = any free one) and returns the port. Sessions
    /// are not disturbed; on failure the old port stays.
    ///
    /// # Errors
    /// If the port is taken or the kernel refuses the sockets.
    pub fn set_listen_port(&self, port: u16) -> Result<u16, Error> {
        self.shared.set_listen_port(port)
    }

    /// Sets the mark (`SO_MARK`) of outgoing UDP packets; 0 means none.
    ///
    /// # Errors
    /// If the kernel refuses it, for which it wants `CAP_NET_ADMIN`.
    pub fn set_fwmark(&self, mark: u32) -> Result<(), Error> {
        self.shared.set_fwmark(mark)
    }

    /// Creates the peer or brings it to exactly this state. `endpoint: None` on an existing
    /// peer keeps a roamed endpoint. Only another preshared key ends the peer's session; no
    /// other peer notices, but for allowed IPs that are taken from it.
    ///
    /// # Errors
    /// [`Error::OwnKey`] if the peer has the device's own key; [`Error::TooManyPeers`].
    pub fn set_peer(&self, peer: PeerConfig) -> Result<(), Error> {
        self.shared.apply_to_peer(PeerUpdate::from(peer))
    }

    /// Removes the peer, its sessions and its allowed IPs, if there is one.
    pub fn remove_peer(&self, key: &PublicKey) {
        self.shared.remove_peer(key);
    }

    /// Begins a handshake with every peer that has an endpoint and no session, some at a time, as soon as the interface
    /// is up. For an owner whose earlier device had sessions: the peers still use them, and would notice only after 15
    /// seconds without answer.
    pub fn initiate_handshakes(&self) {
        self.shared.greetings.add_all(self.shared.all_peers().iter().map(|peer| *peer.public_key()));
        self.shared.greet_some();
    }

    /// Packets that went nowhere since the device was made; cheaper than all of [`stats`](Self::stats).
    pub fn drops(&self) -> Drops {
        self.shared.drops.read()
    }

    /// How many packets each system call moved since the device was made.
    pub fn batches(&self) -> Batches {
        self.shared.calls.read()
    }

    /// The state of the device and its peers now.
    pub fn stats(&self) -> DeviceStats {
        self.shared.stats()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}
