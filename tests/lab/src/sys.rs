//! The system calls that the standard library does not wrap: namespaces, mounts, two kinds of socket, path MTUs.
//!
//! All `unsafe` code of the lab is here. Documents: namespaces(7), setns(2), mount(2), prctl(2),
//! icmp(7) (datagram ICMP sockets), packet(7).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Which namespaces [`unshare`] makes new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unshare {
    /// Network only: a pod.
    Net,
    /// Network, mounts and hostname: a host.
    NetMountUts,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Gives the calling thread (only it) fresh namespaces.
pub fn unshare(what: Unshare) -> io::Result<()> {
    let flags = match what {
        Unshare::Net => libc::CLONE_NEWNET,
        Unshare::NetMountUts => libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS,
    };
    // SAFETY: unshare takes no pointers and changes only the calling thread.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Moves the calling thread (only it) into the namespace behind `fd`.
pub fn join(fd: BorrowedFd<'_>) -> io::Result<()> {
    join_raw(fd.as_raw_fd())
}

fn join_raw(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns takes no pointers; a wrong descriptor is answered with an error.
    check(unsafe { libc::setns(fd, 0) }).map(drop)
}

/// Makes `command` start in the given namespaces, in a process group of its own (so that a Ctrl-C at
/// the terminal reaches only us), and die with the thread that spawns it.
///
/// The descriptors must stay open until the command is spawned.
pub fn prepare_child(command: &mut Command, namespaces: Vec<RawFd>) {
    command.process_group(0);
    // SAFETY: between fork and exec the closure only makes async-signal-safe system calls and
    // allocates nothing.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            namespaces.iter().try_for_each(|fd| join_raw(*fd))
        });
    }
}

/// Asks the kernel to send us SIGTERM when our parent ends, or (`false`) no longer to.
pub fn end_with_parent(enable: bool) -> io::Result<()> {
    let signal = if enable { libc::SIGTERM } else { 0 };
    // SAFETY: prctl with this option takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) }).map(drop)
}

/// Leaves the terminal for good (setsid(2)): input from `/dev/null`, output to `log`.
pub fn leave_terminal(log: &File) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    // SAFETY: setsid and dup2 take no pointers; both descriptors are open.
    unsafe {
        check(libc::setsid())?;
        check(libc::dup2(null.as_raw_fd(), 0))?;
        check(libc::dup2(log.as_raw_fd(), 1))?;
        check(libc::dup2(log.as_raw_fd(), 2))?;
    }
    Ok(())
}

/// Lets Ctrl-C pass this process by; its children decide.
pub fn ignore_interrupt() {
    // SAFETY: SIG_IGN is a valid disposition and no handler of ours is replaced.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}

/// Sends `signal` to one process.
pub fn kill(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes no pointers; `pid` is positive, so this is one process and not a group.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

fn mount(source: &CStr, target: &Path, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let target = c_string(target.as_os_str())?;
    let kind = kind.map_or(std::ptr::null(), |kind| kind.as_ptr());
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call, or null where allowed.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, std::ptr::null()) }).map(drop)
}

/// Stops mounts of this thread's mount namespace from reaching any other.
pub fn make_mounts_private() -> io::Result<()> {
    mount(c"none", Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)
}

/// Shows the file or directory `source` also at `target`.
pub fn bind_mount(source: &Path, target: &Path) -> io::Result<()> {
    mount(&c_string(source.as_os_str())?, target, None, libc::MS_BIND)
}

/// Mounts the sysfs of this thread's network namespace, so that /sys/class/net shows its interfaces.
pub fn mount_sysfs() -> io::Result<()> {
    mount(c"sysfs", Path::new("/sys"), Some(c"sysfs"), 0)
}

/// Sets the hostname of this thread's UTS namespace.
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and length describe `name`, which outlives the call.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// An ICMP (or ICMPv6) echo socket: the kernel fills in identifier and checksum, and delivers only
/// replies to this socket's own requests. It is no UDP, but has the same connect, send and receive.
pub fn icmp_socket(ipv6: bool) -> io::Result<UdpSocket> {
    let (domain, protocol) =
        if ipv6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
    // SAFETY: socket takes no pointers; the result is checked and then owned by exactly one value.
    unsafe {
        let fd = check(libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol))?;
        Ok(UdpSocket::from_raw_fd(fd))
    }
}

/// Lets a socket send only what passes whole: it knows the path's MTU, and is told of a smaller one (ip(7), ipv6(7)).
pub fn forbid_fragments(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    let (level, discover, value, tell) = match ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO, libc::IPV6_RECVERR),
        false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO, libc::IP_RECVERR),
    };
    let on: libc::c_int = 1;
    // SAFETY: all these options take an int.
    unsafe {
        set_option(socket, level, discover, &value)?;
        set_option(socket, level, tell, &on)
    }
}

/// What this kernel believes is the MTU of the path that a socket is connected to.
pub fn path_mtu(socket: &UdpSocket, ipv6: bool) -> io::Result<usize> {
    let (level, name) = if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut mtu: libc::c_int = 0;
    let mut length = size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the int, which is that long.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut mtu).cast(), &mut length) })?;
    usize::try_from(mtu).map_err(io::Error::other)
}

/// A socket that reads every frame of `interface` in this thread's network namespace, both directions.
/// A read returns one frame, or `WouldBlock` after `timeout`.
pub fn packet_socket(interface: &str, timeout: Duration) -> io::Result<OwnedFd> {
    let name = c_string(OsStr::new(interface))?;
    let ethertype = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    let buffer: libc::c_int = 64 << 20;
    let timeout = libc::timeval {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).map_err(io::Error::other)?,
        tv_usec: timeout.subsec_micros().into(),
    };
    // SAFETY: all pointers are to values on this stack with the sizes given; the descriptor is owned
    // at once, so it is closed on every error path.
    unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // Protocol 0: nothing is received before the bind below names the interface.
        let fd = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?);
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &buffer)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ethertype;
        address.sll_ifindex = index as libc::c_int;
        check(libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        ))?;
        Ok(fd)
    }
}

/// Lets some minutes of a flow wait in a socket: a machine that is busy must not look like a mesh that
/// loses packets. The usual buffer holds five seconds.
pub fn enlarge_receive_buffer(socket: &UdpSocket) -> io::Result<()> {
    const BYTES: libc::c_int = 8 << 20;
    // SAFETY: the option takes an int.
    unsafe { set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BYTES) }
}

/// # Safety
/// `T` must be the type that the option expects.
unsafe fn set_option<T>(fd: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`; its type is the caller's promise.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// How many frames the kernel could not queue on a [`packet_socket`] since the last call.
pub fn dropped_frames(socket: &OwnedFd) -> io::Result<u32> {
    // struct tpacket_stats of linux/if_packet.h: received, dropped.
    let mut statistics = [0_u32; 2];
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the array, which is that long.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    Ok(statistics[1])
}
