//! Files that are replaced whole: whoever reads one sees the old content or the new, never a part.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What the new content has to outlast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survives {
    /// The end of this process. Enough for what is worthless after a reboot.
    Crash,
    /// The end of power: the content is on the disk when the call returns (fsync(2)).
    PowerLoss,
}

/// Puts `content` in the place of the file at `path`, with permissions `mode`, by rename(2).
pub(super) fn replace(path: &Path, content: &[u8], mode: u32, survives: Survives) -> io::Result<()> {
    let temporary = temporary(path)?;
    let result = write(&temporary, content, mode, survives).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The error that counts is the first one.
        _ = fs::remove_file(&temporary);
        return result;
    }
    if survives == Survives::PowerLoss {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// A name in the same directory that programs which load a directory (`*.conf`, `*.conflist`) skip.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".kilo-new");
    Ok(path.with_file_name(hidden))
}

fn write(path: &Path, content: &[u8], mode: u32, survives: Survives) -> io::Result<()> {
    // What an earlier run may have left behind.
    remove(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The mode above is subject to the umask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    if survives == Survives::PowerLoss {
        file.sync_all()?;
    }
    Ok(())
}

/// Removes the file at `path`, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
