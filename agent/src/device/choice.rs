//! Which WireGuard to use: the kernel's is faster and outlives the agent, ours works everywhere.

use topology::report::Backend;

use crate::{
    flags::WireGuard,
    os::{Error, Netlink, kernel},
};

/// A choice, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What was chosen.
    pub backend: Backend,
    /// Why, for the log.
    pub reason: String,
}

/// Does what `--wireguard` says; `auto` prefers the kernel's. `make` is whether the interface is ours to
/// make: in userspace there is no other.
pub async fn choose(wanted: WireGuard, make: bool, netlink: &Netlink) -> Choice {
    match wanted {
        WireGuard::Kernel => Choice { backend: Backend::Kernel, reason: "--wireguard=kernel".to_owned() },
        WireGuard::Userspace => Choice { backend: Backend::Userspace, reason: "--wireguard=userspace".to_owned() },
        WireGuard::Auto if !make => Choice { backend: Backend::Kernel, reason: "--create-interface=false".to_owned() },
        WireGuard::Auto => best(kernel::has_wireguard(netlink).await),
    }
}

fn best(kernel_has_it: Result<bool, Error>) -> Choice {
    let (backend, reason) = match kernel_has_it {
        Ok(true) => (Backend::Kernel, "the kernel has WireGuard".to_owned()),
        Ok(false) => (Backend::Userspace, "the kernel has no WireGuard".to_owned()),
        Err(error) if error.errno() == Some(libc::EPERM) => {
            (Backend::Userspace, format!("no permission to use the kernel's (CAP_NET_ADMIN): {error}"))
        }
        Err(error) => (Backend::Userspace, format!("the kernel's cannot be used: {error}")),
    };
    Choice { backend, reason }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::os::Refusal;

    #[test]
    fn the_kernels_is_preferred_and_the_reason_against_it_is_told() {
        let refused = |errno| {
            let source = Refusal::Kernel { error: io::Error::from_raw_os_error(errno), reason: None };
            Err(Error::Link { action: "create it", link: "wgtry1".into(), source })
        };
        for (kernel_has_it, backend, named) in [
            (Ok(true), Backend::Kernel, "the kernel has WireGuard"),
            (Ok(false), Backend::Userspace, "no WireGuard"),
            (refused(libc::EPERM), Backend::Userspace, "CAP_NET_ADMIN"),
            (refused(libc::ENOMEM), Backend::Userspace, "Cannot allocate memory"),
        ] {
            let choice = best(kernel_has_it);
            assert_eq!(choice.backend, backend);
            assert!(choice.reason.contains(named), "{choice:?}");
        }
    }
}
