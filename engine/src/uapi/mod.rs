//! The configuration socket that `wg show` and `wg set` use
//! (<https://www.wireguard.com/xplatform/>).
//!
//! One thread serves one client after the other: requests are short, and who may open the
//! socket may do anything with the device.

pub(crate) mod request;
mod response;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::Error;
use crate::secret::SecretBytes;
use crate::shared::Shared;
use crate::sys::poll::wait_readable;
use crate::sys::tun::index_of;
use request::Request;
use response::PeerState;

/// How long a client may take for one request or one answer before the next one gets its turn.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest request: some 50,000 peers.
const MAX_REQUEST: usize = 16 << 20;

/// The socket. Its file is removed when this is dropped.
pub(crate) struct UapiSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl UapiSocket {
    /// Listens at `<directory>/<interface>.sock`, for the owner only. Replaces a socket that
    /// nobody listens at any more.
    pub(crate) fn bind(directory: &Path, interface: &str) -> Result<Self, Error> {
        let path = directory.join(format!("{interface}.sock"));
        let failed = |source| Error::Uapi { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        refuse_if_in_use(&path).map_err(failed)?;
        // Made under another name, so that it is never there with wider permissions.
        let unfinished = directory.join(format!(".{interface}.{}", std::process::id()));
        let _ = fs::remove_file(&unfinished);
        let listener = UnixListener::bind(&unfinished).map_err(failed)?;
        let finish = || {
            fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))?;
            let inode = fs::metadata(&unfinished)?.ino();
            fs::rename(&unfinished, &path)?;
            Ok(inode)
        };
        match finish() {
            Ok(inode) => Ok(Self { listener, path: path.clone(), inode }),
            Err(error) => {
                let _ = fs::remove_file(&unfinished);
                Err(failed(error))
            }
        }
    }
}

impl Drop for UapiSocket {
    fn drop(&mut self) {
        // Not one that somebody else has put there since.
        if fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn refuse_if_in_use(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(file) if file.file_type().is_socket() => match UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => Ok(()),
        },
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// Serves clients until the device is closed.
pub(crate) fn run(shared: &Shared, socket: &UapiSocket) {
    while !shared.is_closing() {
        let fds = [Some(socket.listener.as_fd()), Some(shared.wakes.uapi.fd())];
        let Ok([true, _]) = wait_readable(fds, None) else { continue };
        if let Ok((client, _)) = socket.listener.accept()
            && let Err(error) = serve(shared, &client)
        {
            tracing::debug!(%error, interface = shared.tun.name(), "configuration client");
        }
    }
}

/// Answers one client's requests until it hangs up.
fn serve(shared: &Shared, mut client: &UnixStream) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let mut received = SecretBytes::default();
    while let Some(end) = receive_request(shared, client, &mut received)? {
        let answer = answer(shared, &received[..end]);
        received.remove_front(end);
        client.write_all(&answer)?;
    }
    Ok(())
}

/// Reads until there is a whole request and returns its length; `None` at the end.
fn receive_request(shared: &Shared, mut client: &UnixStream, received: &mut SecretBytes) -> io::Result<Option<usize>> {
    let deadline = Instant::now() + PATIENCE;
    let mut chunk = Zeroizing::new([0; 4096]);
    let mut searched = 0;
    loop {
        if let Some(at) = received[searched..].windows(2).position(|pair| pair == b"\n\n") {
            return Ok(Some(searched + at + 2));
        }
        searched = received.len().saturating_sub(1);
        let left = deadline.saturating_duration_since(Instant::now());
        let fds = [Some(client.as_fd()), Some(shared.wakes.uapi.fd())];
        let [readable, closing] = wait_readable(fds, Some(left))?;
        if closing || left.is_zero() {
            return Ok(None);
        }
        if readable {
            match client.read(&mut *chunk)? {
                0 => return Ok(None),
                len => received.extend(&chunk[..len]),
            }
        }
        if received.len() > MAX_REQUEST {
            return Err(io::Error::other("request too long"));
        }
    }
}

fn answer(shared: &Shared, request: &[u8]) -> SecretBytes {
    let parsed = std::str::from_utf8(request).ok().map(|text| request::parse(text, index_of));
    let errno = match parsed {
        Some(Ok(Request::Get)) => return state(shared),
        Some(Ok(Request::Set(update))) => match shared.apply(update) {
            Ok(()) => 0,
            Err(error) => {
                tracing::warn!(%error, interface = shared.tun.name(), "configuration request failed");
                errno_of(&error)
            }
        },
        Some(Err(error)) => {
            tracing::warn!(%error, interface = shared.tun.name(), "configuration request refused");
            libc::EINVAL
        }
        None => libc::EINVAL,
    };
    response::result(errno)
}

fn state(shared: &Shared) -> SecretBytes {
    let device = shared.stats();
    let table = shared.table();
    let peers: Vec<_> = device
        .peers
        .iter()
        .map(|stats| PeerState {
            stats: stats.clone(),
            preshared_key: table.by_key(&stats.public_key).and_then(|peer| peer.preshared_key()),
        })
        .collect();
    drop(table);
    let identity = shared.identity();
    response::state(identity.as_ref().map(|identity| identity.secret()), &device, &peers)
}

fn errno_of(error: &Error) -> i32 {
    match error {
        Error::Tun { source, .. }
        | Error::Udp { source, .. }
        | Error::Uapi { source, .. }
        | Error::Thread { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        Error::Name(_) | Error::OwnKey => libc::EINVAL,
        Error::TooManyPeers => libc::ENOSPC,
        Error::Closed => libc::ENODEV,
    }
}
