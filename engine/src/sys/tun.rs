//! Opening and setting up a TUN interface (Linux `Documentation/networking/tuntap.rst`,
//! `uapi/linux/if_tun.h`). Reading and writing it is std's `File`.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::zeroed;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use super::check;

/// Checksums and TCP segmentation: every kernel that can run this has them.
const OFFLOAD_TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// UDP segmentation: since Linux 6.2.
const OFFLOAD_UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Opens the control device, not yet attached to an interface; reads do not block.
pub(crate) fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/net/tun")
}

/// Fails when there is an interface of that name, also a TUN that is waiting for its program
/// (`uapi/linux/if_tun.h`; libc has no name for it).
const IFF_TUN_EXCL: libc::c_int = 0x8000;

/// Makes the interface, with a `virtio_net_hdr` before each packet. It lives as long as one of its queues, of which
/// this is the first and, unless there are to be `several`, the only one.
pub(crate) fn create(tun: &File, name: &str, several: bool) -> io::Result<()> {
    attach(tun, name, IFF_TUN_EXCL | if several { libc::IFF_MULTI_QUEUE } else { 0 })
}

/// As [`create`], or attaches the first queue to the interface of that name, if it is a TUN that was made with as many
/// queues in mind (else the kernel says `EINVAL`) and, with a single one, nobody has it (`EBUSY`).
pub(crate) fn take_or_create(tun: &File, name: &str, several: bool) -> io::Result<()> {
    attach(tun, name, if several { libc::IFF_MULTI_QUEUE } else { 0 })
}

/// Makes us the owner of the interface: of one without owner, whoever may open `/dev/net/tun`, which is everybody, can
/// open a queue (`tun_not_capable` in drivers/net/tun.c). Afterwards that takes our user or `CAP_NET_ADMIN`.
pub(crate) fn own(tun: &File) -> io::Result<()> {
    // SAFETY: geteuid takes no arguments and cannot fail; TUNSETOWNER takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(libc::geteuid())) }).map(drop)
}

/// Has the interface stay when its last queue is closed, until somebody deletes it.
pub(crate) fn persist(tun: &File) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) }).map(drop)
}

/// Makes another queue of an interface that was made with several.
pub(crate) fn join(tun: &File, name: &str) -> io::Result<()> {
    attach(tun, name, libc::IFF_MULTI_QUEUE)
}

fn attach(tun: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = request_for(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) }).map(drop)
}

/// Says which unfinished packets we take from the kernel.
pub(crate) fn set_offload(tun: &File, tcp: bool, udp: bool) -> io::Result<()> {
    let flags = if tcp { OFFLOAD_TCP } else { 0 } | if udp { OFFLOAD_UDP } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) }).map(drop)
}

/// Sets the MTU of an interface, in bytes. Any socket of the right network namespace will do.
pub(crate) fn set_mtu(socket: &UdpSocket, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request_for(name);
    request.ifr_ifru.ifru_mtu = i32::from(mtu);
    // SAFETY: SIOCSIFMTU reads one ifreq, which `request` is.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request) }).map(drop)
}

/// Whether the interface is administratively up.
pub(crate) fn is_up(socket: &UdpSocket, name: &str) -> io::Result<bool> {
    let mut request = request_for(name);
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) })?;
    // SAFETY: the call succeeded, so the kernel wrote the flags member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}

/// The number of an interface in the network namespace of the calling thread.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// An `ifreq` with the name filled in; names are checked to be short enough by the caller.
fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from as libc::c_char;
    }
    request
}
