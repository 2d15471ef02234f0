//! What went wrong, with what was being done to which object.

use std::{fmt, io, path::PathBuf};

use ipnet::IpNet;
use topology::{InterfaceName, KeyError, Route, Rule, TunnelKind, cni::CniError};

use super::program::Refused;

/// Why a netlink request came to nothing.
#[derive(Debug)]
pub enum Refusal {
    /// The kernel said no.
    Kernel {
        /// The error number.
        error: io::Error,
        /// The kernel's own explanation (`NLMSGERR_ATTR_MSG`, linux/netlink.h), if it gave one.
        reason: Option<String>,
    },
    /// The socket to the kernel is gone.
    Closed,
    /// A list changed each time while it was read (`NLM_F_DUMP_INTR`).
    Unsettled,
}

impl Refusal {
    /// What the kernel would say of an interface that does not exist.
    pub(super) fn no_link() -> Self {
        Self::Kernel { error: io::Error::from_raw_os_error(libc::ENODEV), reason: None }
    }

    /// The kernel's error number, to be compared with those of errno(3).
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { error, .. } => error.raw_os_error(),
            Self::Closed | Self::Unsettled => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { error, reason: Some(reason) } => write!(f, "{error}: {reason}"),
            Self::Kernel { error, reason: None } => write!(f, "{error}"),
            Self::Closed => f.write_str("the netlink socket is closed"),
            Self::Unsettled => f.write_str("the list kept changing while it was read"),
        }
    }
}

impl std::error::Error for Refusal {}

/// One thing that could not be done to the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to talk to the kernel.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel has no such family of generic netlink, or does not let us use it.
    #[error("cannot use the kernel's interface {name}: {source}")]
    Family {
        /// The family.
        name: &'static str,
        /// Why.
        source: Refusal,
    },
    /// The kernel did not tell what is there.
    #[error("cannot list {what}: {source}")]
    List {
        /// What was asked for, in the plural.
        what: &'static str,
        /// Why.
        source: Refusal,
    },
    /// There is no such interface.
    #[error("interface {link}: does not exist")]
    NoLink {
        /// Its name.
        link: InterfaceName,
    },
    /// An interface could not be read, changed or deleted.
    #[error("interface {link}: cannot {action}: {source}")]
    Link {
        /// What was being done.
        action: &'static str,
        /// The interface.
        link: InterfaceName,
        /// Why.
        source: Refusal,
    },
    /// An address could not be added or removed.
    #[error("cannot {action} address {address} dev {link}: {source}")]
    Address {
        /// `add` or `remove`.
        action: &'static str,
        /// The address with its prefix length.
        address: IpNet,
        /// The interface.
        link: InterfaceName,
        /// Why.
        source: Refusal,
    },
    /// A route could not be added, replaced or removed.
    #[error("cannot {action} route {route}: {source}")]
    Route {
        /// `add`, `replace` or `remove`.
        action: &'static str,
        /// The route.
        route: Box<Route>,
        /// Why.
        source: Refusal,
    },
    /// A route's place is taken by one that is not ours, which is left alone.
    #[error("cannot add route {route}: there is another route to {} that was not made by Kilo", route.dst)]
    Occupied {
        /// The route that was wanted.
        route: Box<Route>,
    },
    /// A rule could not be added or removed.
    #[error("cannot {action} rule {rule}: {source}")]
    Rule {
        /// `add` or `remove`.
        action: &'static str,
        /// The rule.
        rule: Box<Rule>,
        /// Why.
        source: Refusal,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The CNI configuration is not one in which pod ranges can be kept.
    #[error("cannot keep the pod ranges in {}: {source}", path.display())]
    Cni {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CniError,
    },
    /// The firewall table needs a program that is not installed.
    #[error("the program nft was not found: install the nftables package")]
    NoNft,
    /// The `nft` program could not be run to its end.
    #[error("cannot {action} the firewall table: nft: {source}")]
    Nft {
        /// What was being done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The `nft` program refused.
    #[error("cannot {action} the firewall table: nft: {message}")]
    Firewall {
        /// What was being done.
        action: &'static str,
        /// The beginning of what it wrote to its standard error.
        message: String,
    },
    /// An interface has the tunnel's name and is none.
    #[error("interface {link}: is a {kind} and not the {wanted} that --encapsulate needs: remove or rename it")]
    NoTunnel {
        /// Its name.
        link: InterfaceName,
        /// What it is.
        kind: String,
        /// What it should be.
        wanted: TunnelKind,
    },
    /// An entry of the tunnel's tables could not be added or removed.
    #[error("cannot {action} neighbour {entry} dev {link}: {source}")]
    Neighbour {
        /// `add` or `remove`.
        action: &'static str,
        /// The entry.
        entry: String,
        /// The interface.
        link: InterfaceName,
        /// Why.
        source: Refusal,
    },
    /// A chain of iptables is in use, and the program for it is not installed.
    #[error(
        "--iptables-forward-rules: {program} was not found, although its FORWARD chain is in use: install iptables"
    )]
    NoIptables {
        /// The program.
        program: String,
    },
    /// A program of iptables refused.
    #[error("cannot {action} the forward rules: {program}: {source}")]
    Iptables {
        /// What was being done.
        action: &'static str,
        /// The program.
        program: String,
        /// Why.
        source: Refused,
    },
    /// There is no private key in a file.
    #[error("{}: no WireGuard private key: {source}, as wg genkey prints it", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The system gave no random numbers for a new key.
    #[error("cannot make a private key: {0}")]
    Random(String),
}

impl Error {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Family { source, .. }
            | Self::List { source, .. }
            | Self::Link { source, .. }
            | Self::Address { source, .. }
            | Self::Route { source, .. }
            | Self::Rule { source, .. }
            | Self::Neighbour { source, .. } => source.errno(),
            Self::Socket(source) => source.raw_os_error(),
            _ => None,
        }
    }

    /// `source` happened while doing `action` to the file at `path`.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }
}
