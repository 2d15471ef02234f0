//! What a lab needs of the machine, checked before anything is changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, anyhow, bail};

use crate::space::Space;
use crate::spec::Api;
use crate::{api, cni};

/// Programs that every lab runs, and the Debian packages they are in.
const PROGRAMS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("setpriv", "util-linux"), ("wg", "wireguard-tools")];
const PLUGINS: [&str; 3] = ["bridge", "host-local", "portmap"];

/// Whether a lab with this API server can run here; if not, why not.
///
/// Asking for [`Api::Real`] builds a kube-apiserver if there is none, which takes minutes.
pub fn available(api: Api) -> Result<()> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        bail!("a lab needs root, for its network namespaces");
    }
    for (program, package) in PROGRAMS {
        if find(program).is_none() {
            bail!("a lab needs {program} (Debian: {package})");
        }
    }
    for plugin in PLUGINS {
        if !Path::new(cni::PLUGINS).join(plugin).is_file() {
            bail!("a lab needs {}/{plugin} (Debian: containernetworking-plugins)", cni::PLUGINS);
        }
    }
    match api {
        Api::Embedded => Ok(()),
        Api::Real => api::binaries().map(drop),
    }
}

/// Whether the kernel has interfaces of this kind; if not, why not. A kernel that can load modules does so.
pub fn has_link_kind(kind: &str) -> Result<()> {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    let number = TRIES.fetch_add(1, Ordering::Relaxed);
    let space = Space::pod(&format!("kglab-has-{kind}-{}", std::process::id()), &number.to_string())?;
    let link = match kind {
        "ipvlan" | "macvlan" | "vlan" => "link lower name try0 type",
        _ => "try0 type",
    };
    let more = match kind {
        "vlan" => "id 1",
        // Without it this would be another `tunl0`.
        "ipip" => "remote 192.0.2.1",
        _ => "",
    };
    space.ip("link add lower type veth peer name other\n")?;
    space.ip(&format!("link add {link} {kind} {more}\n")).map_err(|_| anyhow!("the kernel has no {kind}"))
}

/// Whether a program is on this machine; if not, which Debian package has it.
pub fn has_program(program: &str, package: &str) -> Result<()> {
    match find(program) {
        Some(_) => Ok(()),
        None => bail!("needs {program} (Debian: {package})"),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
