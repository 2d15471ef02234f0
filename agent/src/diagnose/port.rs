//! Who has a UDP socket at a port (proc_net_udp in proc(5)).

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use topology::doctor::diagnosis::Port;

/// Sockets at the same port that are told of at most.
const OTHERS: usize = 8;

/// A socket in the list.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// Who listens at `port` in the own network namespace. `by_kernel`: the kernel's WireGuard does.
pub(super) fn read(port: u16, by_kernel: bool) -> io::Result<Port> {
    let mut text = fs::read_to_string("/proc/thread-self/net/udp")?;
    // A kernel without IPv6 has no such file.
    text.push_str(&fs::read_to_string("/proc/thread-self/net/udp6").unwrap_or_default());
    Ok(judge(port, text.lines().filter_map(socket), &own_sockets()?, by_kernel))
}

/// Whose these sockets are. Those of the kernel's WireGuard have inodes like anybody's, but no descriptor anywhere; what
/// tells them is that they are at all addresses, where nobody else can be while they are.
fn judge(port: u16, sockets: impl Iterator<Item = Socket>, own: &BTreeSet<u64>, by_kernel: bool) -> Port {
    let (mine, others): (Vec<_>, Vec<_>) = sockets
        .filter(|socket| socket.port == port)
        .partition(|socket| own.contains(&socket.inode) || by_kernel && socket.address.is_unspecified());
    let shown = others.iter().take(OTHERS).map(|socket| std::net::SocketAddr::new(socket.address, port).to_string());
    Port { port, own: !mine.is_empty(), others: shown.collect() }
}

/// A line of the list; `None` for its headings.
fn socket(line: &str) -> Option<Socket> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = columns.get(1)?.split_once(':')?;
    Some(Socket {
        address: self::address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: columns.get(9)?.parse().ok()?,
    })
}

/// An address as its 32-bit words, each a number in the machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

/// The inodes of this process's sockets.
fn own_sockets() -> io::Result<BTreeSet<u64>> {
    let links = fs::read_dir("/proc/self/fd")?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inode = |link: &str| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Ok(links.filter_map(|link| inode(link.to_str()?)).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn lines_are_read() {
        let heading =
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref";
        let line =
            "  421: 0B00650A:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0";
        assert_eq!(socket(heading), None);
        assert_eq!(socket("  1: zz:CA6C x"), None);
        let expected = Socket { address: "10.101.0.11".parse().unwrap(), port: 51820, inode: 4711 };
        if cfg!(target_endian = "little") {
            assert_eq!(socket(line), Some(expected));
            assert_eq!(address("00000000000000000000000001000000"), "::1".parse().ok());
        }
    }

    #[test]
    fn the_kernels_sockets_are_told_from_others() {
        let at = |address: &str, inode| Socket { address: address.parse().unwrap(), port: 7, inode };
        let sockets = || [at("0.0.0.0", 10), at("::", 11), at("192.0.2.1", 12)].into_iter();
        let told = |own: bool, others: &[&str]| Port {
            port: 7,
            own,
            others: others.iter().map(|other| (*other).to_owned()).collect(),
        };
        let own = BTreeSet::from([12]);
        assert_eq!(judge(7, sockets(), &own, false), told(true, &["0.0.0.0:7", "[::]:7"]));
        assert_eq!(judge(7, sockets(), &BTreeSet::new(), true), told(true, &["192.0.2.1:7"]));
        assert_eq!(judge(8, sockets(), &own, true), Port { port: 8, own: false, others: vec![] });
    }

    #[test]
    fn the_own_socket_is_told_from_none() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(read(port, false).unwrap(), Port { port, own: true, others: vec![] });
        drop(taken);
        // A program that another test starts has it, too, until its file is executed.
        let deadline = Instant::now() + Duration::from_secs(60);
        while read(port, false).unwrap() != (Port { port, own: false, others: vec![] }) {
            assert!(Instant::now() < deadline, "{:?}", read(port, false).unwrap());
            thread::sleep(Duration::from_millis(5));
        }
    }
}
