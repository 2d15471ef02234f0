//! Which UDP offloads the running kernel has and does right.
//!
//! What a kernel lacks is found out by trying; what it does wrong a program cannot see, so that is known by its version.

use std::io;

use crate::sys::udp;

/// UDP offloads that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offloads {
    /// Several datagrams are received as one (`UDP_GRO`).
    pub(crate) coalescing: bool,
    /// Several datagrams are sent as one (`UDP_SEGMENT`).
    pub(crate) segmentation: bool,
}

impl Offloads {
    pub(crate) const NONE: Self = Self { coalescing: false, segmentation: false };

    /// Those of the running kernel. Tells what is missing, once for all sockets to come.
    pub(crate) fn of_the_kernel() -> io::Result<Self> {
        let socket = udp::open(false)?;
        let try_option = |option, value| udp::set_option(&socket, libc::SOL_UDP, option, value);
        Ok(Self::find(Version::running(), try_option))
    }

    fn find(version: Option<Version>, try_option: impl Fn(libc::c_int, libc::c_int) -> io::Result<()>) -> Self {
        let find = |what, is_sound: fn(Version) -> bool, option, value| {
            if let Some(Version { major, minor, patch }) = version.filter(|version| !is_sound(*version)) {
                tracing::info!("UDP {what} is not used: Linux {major}.{minor}.{patch} does it wrong");
                return false;
            }
            try_option(option, value)
                .inspect_err(|error| tracing::info!(%error, "UDP {what} is not used: this kernel has none"))
                .is_ok()
        };
        Self {
            coalescing: find("coalescing", Version::can_coalesce_udp, libc::UDP_GRO, 1),
            // Size 0 changes nothing.
            segmentation: find("segmentation", Version::can_segment_udp, libc::UDP_SEGMENT, 0),
        }
    }
}

/// As `uname -r` begins. A release candidate counts as what it is the candidate for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The running kernel; `None` if it does not say.
    fn running() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
    }

    /// Reads what `uname -r` prints, such as `6.1.0-18-amd64` or `7.1-rc3`.
    fn parse(release: &str) -> Option<Self> {
        let numbers = release.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self { major: next()?, minor: next()?, patch: next().unwrap_or(0) })
    }

    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Before 5.12 a coalesced datagram could come with a wrong segment size.
    fn can_coalesce_udp(self) -> bool {
        self >= Self::new(5, 12, 0)
    }

    /// From 7.0 to 7.1.4, by what other users of it found, segments can be sent with wrong headers and checksums
    /// (<https://github.com/tailscale/tailscale/pull/19918>, which names the kernel's commits).
    fn can_segment_udp(self) -> bool {
        !(Self::new(7, 0, 0)..Self::new(7, 1, 5)).contains(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_lines::log_lines;

    const ALL: Offloads = Offloads { coalescing: true, segmentation: true };

    #[test]
    fn what_a_kernel_does_wrong_is_not_used_and_told_once() {
        for (release, coalescing, segmentation) in [
            ("5.10.0-28-amd64", false, true),
            ("5.12.0", true, true),
            ("6.18.44", true, true),
            ("7.0.3-arch1-1", true, false),
            ("7.1-rc6", true, false),
            ("7.1.4", true, false),
            ("7.1.5+", true, true),
            ("10.0", true, true),
        ] {
            let version = Version::parse(release);
            assert!(version.is_some(), "{release}");
            let expected = Offloads { coalescing, segmentation };
            let told = [coalescing, segmentation].into_iter().filter(|used| !used).count();
            assert_eq!(log_lines(|| Offloads::find(version, |_, _| Ok(()))), (expected, told), "{release}");
        }
        assert_eq!(Version::parse("unknown"), None);
        assert_eq!(Offloads::find(None, |_, _| Ok(())), ALL, "a kernel that does not say");
    }

    #[test]
    fn what_a_kernel_lacks_is_not_used_and_told_once() {
        for (lacks, expected) in [
            (libc::UDP_GRO, Offloads { coalescing: false, ..ALL }),
            (libc::UDP_SEGMENT, Offloads { segmentation: false, ..ALL }),
        ] {
            let refused = || io::Error::from_raw_os_error(libc::ENOPROTOOPT);
            let kernel = |option, _| if option == lacks { Err(refused()) } else { Ok(()) };
            assert_eq!(log_lines(|| Offloads::find(Version::parse("6.18"), kernel)), (expected, 1));
        }
    }
}
