//! What a lab needs of the machine, checked before anything is changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::space::Space;
use crate::spec::Api;
use crate::{api, cni};

/// Programs that every lab runs, and the Debian packages they are in.
const PROGRAMS: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("wg", "wireguard-tools")];
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

/// Whether the kernel has interfaces of this kind (`ipvlan`, `macvlan`, `vlan`) that divide another one; if
/// not, why not. A kernel that can load modules does so.
pub fn has_link_kind(kind: &str) -> Result<()> {
    let space = Space::pod(&format!("kglab-has-{kind}"), &std::process::id().to_string())?;
    space.ip("link add lower type veth peer name other\n")?;
    let id: &[&str] = if kind == "vlan" { &["id", "1"] } else { &[] };
    let argv = [&["ip", "link", "add", "link", "lower", "name", "upper", "type", kind], id].concat();
    space.exec(argv).map(drop).with_context(|| format!("the kernel has no {kind}"))
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
