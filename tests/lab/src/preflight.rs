//! What a lab needs of the machine, checked before anything is changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

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

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
