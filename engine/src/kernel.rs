//! Which offloads of the running kernel are known to be broken, by its version.
//!
//! Everything else is found out by trying; these fail in ways a program cannot see.

/// Major and minor number, and the release candidate if it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
    candidate: Option<u32>,
}

impl Version {
    /// The running kernel; `None` if it does not say.
    pub(crate) fn running() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
    }

    /// Reads what `uname -r` prints, such as `6.1.0-18-amd64` or `7.1.0-rc3`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        let candidate = release.split_once("-rc").and_then(|(_, rest)| {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        Some(Self { major, minor, candidate })
    }

    /// Before 5.12 a coalesced datagram could come with a wrong segment size.
    pub(crate) fn can_coalesce_udp(self) -> bool {
        (self.major, self.minor) >= (5, 12)
    }

    /// From 7.0 up to 7.1-rc5 segments were sent with wrong checksums or lost.
    pub(crate) fn can_segment_udp(self) -> bool {
        match (self.major, self.minor) {
            (7, 0) => false,
            (7, 1) => self.candidate.is_none_or(|candidate| candidate > 5),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_releases() {
        for (release, coalesces, segments) in [
            ("5.10.0-28-amd64", false, true),
            ("5.12.0", true, true),
            ("6.18.44", true, true),
            ("7.0.3-arch1-1", true, false),
            ("7.1.0-rc5", true, false),
            ("7.1.0-rc6-next", true, true),
            ("7.1.2", true, true),
            ("10.0", true, true),
        ] {
            let version = Version::parse(release).unwrap();
            assert_eq!(version.can_coalesce_udp(), coalesces, "{release}");
            assert_eq!(version.can_segment_udp(), segments, "{release}");
        }
        assert_eq!(Version::parse("unknown"), None);
    }
}
