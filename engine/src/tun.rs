//! The TUN side of the device: the interface and what the kernel can do on it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::coalesce::{Frame, Joinable, Verdict};
use crate::drops::{Cause, DropCounters};
use crate::sys::tun as sys;
use crate::vnet::{self, Segmentation};
use crate::{Error, Options};

/// Largest frame the kernel hands over: offload header and the longest IP packet.
pub(crate) const MAX_FRAME: usize = vnet::LEN + 65_535;

/// The interface. It vanishes when this is dropped, unless it is a persistent one.
pub(crate) struct Tun {
    /// One for each thread that reads.
    queues: Vec<File>,
    name: String,
    /// Any socket of the interface's network namespace, for questions about it.
    control: UdpSocket,
    /// Which joined packets the kernel takes from us.
    join_tcp: AtomicBool,
    join_udp: AtomicBool,
}

impl Tun {
    /// Makes the interface in the network namespace of the calling thread, down, or takes the persistent one.
    pub(crate) fn create(options: &Options) -> Result<Self, Error> {
        let name = checked_name(&options.name)?;
        let failed = |step| {
            let name = name.to_owned();
            move |source| Error::Tun { name, step, source }
        };
        let control = crate::sys::udp::open(false).map_err(failed("opening a socket"))?;
        let first = sys::open().map_err(failed("opening /dev/net/tun"))?;
        let several = options.queues.get() > 1;
        if options.persistent {
            sys::take_or_create(&first, name, several).map_err(failed("taking or creating"))?;
        } else {
            sys::create(&first, name, several).map_err(failed("creating"))?;
        }
        sys::own(&first).map_err(failed("setting its owner"))?;
        let mut queues = vec![first];
        while queues.len() < options.queues.get() {
            let queue = sys::open().map_err(failed("opening /dev/net/tun"))?;
            sys::join(&queue, name).map_err(failed("adding a queue"))?;
            queues.push(queue);
        }
        sys::set_mtu(&control, name, options.mtu).map_err(failed("setting the MTU"))?;
        // Offloads are the interface's: one queue speaks for all.
        let ask = |tcp, udp| sys::set_offload(&queues[0], tcp, udp);
        let (tcp, udp) = best_offload(ask, options.offload).map_err(failed("setting offloads"))?;
        // Last, so that one that is of no use does not stay.
        if options.persistent {
            sys::persist(&queues[0]).map_err(failed("making it persistent"))?;
        }
        Ok(Self {
            queues,
            name: name.to_owned(),
            control,
            join_tcp: AtomicBool::new(tcp),
            join_udp: AtomicBool::new(udp),
        })
    }

    /// No interface at all: what is written goes nowhere, and nothing is ever read.
    pub(crate) fn nowhere() -> io::Result<Self> {
        Ok(Self {
            queues: vec![File::options().read(true).write(true).open("/dev/null")?],
            name: "nowhere".to_owned(),
            control: crate::sys::udp::open(false)?,
            join_tcp: AtomicBool::new(true),
            join_udp: AtomicBool::new(true),
        })
    }

    /// An interface whose frames are read from a file, and written to it.
    #[cfg(test)]
    pub(crate) fn at_file(file: File) -> io::Result<Self> {
        Ok(Self { queues: vec![file], ..Self::nowhere()? })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the interface is administratively up; one that is gone is not.
    pub(crate) fn is_up(&self) -> bool {
        sys::is_up(&self.control, &self.name).unwrap_or(false)
    }

    /// Which joined packets [`write`](Self::write) can pass on.
    pub(crate) fn joinable(&self) -> Joinable {
        Joinable { tcp: self.join_tcp.load(Ordering::Relaxed), udp: self.join_udp.load(Ordering::Relaxed) }
    }

    /// One of the queues there are.
    fn queue(&self, number: usize) -> &File {
        &self.queues[number % self.queues.len()]
    }

    /// Reads one frame of a queue without waiting.
    pub(crate) fn read(&self, queue: usize, frame: &mut [u8]) -> io::Result<usize> {
        self.queue(queue).read(frame)
    }

    /// Writes one frame to a queue, where the kernel will then put what answers it. What the kernel refuses is counted and forgotten.
    pub(crate) fn write(&self, queue: usize, frame: &Frame<'_>, drops: &DropCounters) -> Verdict {
        match (self.queue(queue).write_vectored(frame.slices), frame.joined) {
            (Ok(_), _) => Verdict::Done,
            // Some kernels announce the offload and then refuse such frames.
            (Err(error), Some(kind)) if error.raw_os_error() == Some(libc::EINVAL) => {
                let flag = if kind == Segmentation::Udp { &self.join_udp } else { &self.join_tcp };
                if flag.swap(false, Ordering::Relaxed) {
                    tracing::info!(interface = self.name, ?kind, "joined packets are refused and now off");
                }
                Verdict::Separately
            }
            (Err(_), _) => {
                drops.add(Cause::TunWrite, frame.packets);
                Verdict::Done
            }
        }
    }

    pub(crate) fn fd(&self, queue: usize) -> BorrowedFd<'_> {
        self.queue(queue).as_fd()
    }
}

/// Asks for as much as the kernel has; returns whether TCP and UDP can be joined.
fn best_offload(ask: impl Fn(bool, bool) -> io::Result<()>, wanted: bool) -> io::Result<(bool, bool)> {
    if wanted {
        if ask(true, true).is_ok() {
            return Ok((true, true));
        }
        if ask(true, false).is_ok() {
            tracing::info!("TUN has no UDP segmentation, which needs Linux 6.2");
            return Ok((true, false));
        }
        tracing::info!("TUN has no segmentation");
    }
    ask(false, false)?;
    Ok((false, false))
}

/// The rules of the kernel's `dev_valid_name`, and no `%`, which would be a pattern.
fn checked_name(name: &str) -> Result<&str, Error> {
    let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ && name != "." && name != "..";
    let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if fits && name.chars().all(allowed) { Ok(name) } else { Err(Error::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use crate::log_lines::log_lines;

    use super::*;

    /// A file that refuses whatever is written to it with EINVAL stands for the TUN of a kernel
    /// that announces an offload and then does not take such frames.
    fn tun_that_refuses() -> Tun {
        Tun {
            queues: vec![std::fs::OpenOptions::new().write(true).open("/proc/self/clear_refs").unwrap()],
            name: "test".to_owned(),
            control: UdpSocket::bind("127.0.0.1:0").unwrap(),
            join_tcp: AtomicBool::new(true),
            join_udp: AtomicBool::new(true),
        }
    }

    #[test]
    fn joining_is_given_up_for_the_kind_that_is_refused() {
        let (tun, drops) = (tun_that_refuses(), DropCounters::default());
        let slices = &[IoSlice::new(b"not a frame")];
        let joined = Frame { slices, joined: Some(Segmentation::Udp), packets: 2 };
        let twice = || [(); 2].map(|()| tun.write(0, &joined, &drops));
        assert_eq!(log_lines(twice), ([Verdict::Separately; 2], 1), "told once");
        assert!(tun.joinable().tcp && !tun.joinable().udp);
        assert_eq!(drops.read().tun_write, 0);

        let single = Frame { slices, joined: None, packets: 1 };
        assert_eq!(tun.write(0, &single, &drops), Verdict::Done);
        assert_eq!(drops.read().tun_write, 1);
    }

    #[test]
    fn what_the_kernel_lacks_is_not_asked_of_it_and_told_once() {
        for (kernel_has, expected, lines) in
            [((true, true), (true, true), 0), ((true, false), (true, false), 1), ((false, false), (false, false), 1)]
        {
            let refused = || io::Error::from_raw_os_error(libc::EINVAL);
            let kernel =
                |tcp, udp| if (tcp && !kernel_has.0) || (udp && !kernel_has.1) { Err(refused()) } else { Ok(()) };
            let (offload, told) = log_lines(|| best_offload(kernel, true).unwrap());
            assert_eq!((offload, told), (expected, lines));
            assert_eq!(best_offload(kernel, false).unwrap(), (false, false));
        }
    }

    #[test]
    fn interface_names() {
        for good in ["wg0", "kilo0", "a.b-c_d", "fifteen-bytes-x"] {
            assert!(checked_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "sixteen-bytes-xx", "a/b", "a b", "wg%d", "a:b", "ä"] {
            assert!(checked_name(bad).is_err(), "{bad}");
        }
    }
}
