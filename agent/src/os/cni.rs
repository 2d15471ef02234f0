//! The CNI network configuration list on disk, in which the node's pod ranges and their MTU are kept.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use topology::cni::{PodNetwork, with_network};

use super::{
    Error,
    file::{self, Survives},
};

/// Puts `network` into the file at `path` and leaves all else in it as it was; returns whether it had
/// to be written. A node without pod CIDRs leaves the file alone.
///
/// A symbolic link stays one. A file that does not exist is an error: whoever installs Kilo decides
/// what else is in it.
pub fn keep(path: &Path, network: &PodNetwork) -> Result<bool, Error> {
    if network.cidrs.is_empty() {
        return Ok(false);
    }
    let unreadable = |source| Error::file("read", path, source);
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let changed = with_network(&text, network).map_err(|source| Error::Cni { path: path.to_owned(), source })?;
    let Some(text) = changed else { return Ok(false) };
    let target = fs::canonicalize(path).map_err(unreadable)?;
    let mode = fs::metadata(&target).map_err(unreadable)?.permissions().mode() & 0o7777;
    file::replace(&target, text.as_bytes(), mode, Survives::PowerLoss)
        .map_err(|source| Error::file("write", &target, source))?;
    Ok(true)
}
