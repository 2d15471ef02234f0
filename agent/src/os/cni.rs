//! The CNI network configuration list on disk, in which the node's pod ranges are kept.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use ipnet::IpNet;
use topology::cni::with_ranges;

use super::{
    Error,
    file::{self, Survives},
};

/// Puts `pod_cidrs` into the file at `path` and leaves all else in it as it was; returns whether it had
/// to be written. A node without pod CIDRs leaves the file alone.
///
/// A symbolic link stays one. A file that does not exist is an error: whoever installs Kilo decides
/// what else is in it.
pub fn keep(path: &Path, pod_cidrs: &[IpNet]) -> Result<bool, Error> {
    if pod_cidrs.is_empty() {
        return Ok(false);
    }
    let unreadable = |source| Error::file("read", path, source);
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let changed = with_ranges(&text, pod_cidrs).map_err(|source| Error::Cni { path: path.to_owned(), source })?;
    let Some(text) = changed else { return Ok(false) };
    let target = fs::canonicalize(path).map_err(unreadable)?;
    let mode = fs::metadata(&target).map_err(unreadable)?.permissions().mode() & 0o7777;
    file::replace(&target, text.as_bytes(), mode, Survives::PowerLoss)
        .map_err(|source| Error::file("write", &target, source))?;
    Ok(true)
}
