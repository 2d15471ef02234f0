//! The node's private key: a file with base64, as wg-genkey(1) writes it, made at the first start.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use topology::{KeyError, PublicKey, SecretKey};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::{
    Error,
    file::{self, Survives},
};

/// No key file is longer, in bytes.
const LONGEST: u64 = 1024;

/// How many broken files are kept aside.
const BROKEN_KEPT: usize = 100;

/// Where a key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    Read,
    /// There was no file: it was made.
    Made,
    /// The file held no key: it was renamed to this, and a new one was made. To the other nodes this
    /// is a new node.
    Remade(PathBuf),
}

/// The node's key pair.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The private key.
    pub secret: SecretKey,
    /// The public key that belongs to it.
    pub public: PublicKey,
    /// Where it came from.
    pub origin: Origin,
    /// Whether the file may be read by others than its owner, which nobody should want.
    pub exposed: bool,
}

/// The key pair in the file at `path`, which is made if it is missing.
///
/// Upstream overwrites a file that holds no key; here it is kept aside, because it may be a key that
/// somebody can still repair.
pub fn load(path: &Path) -> Result<KeyPair, Error> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make(path, Origin::Made),
        Err(source) => return Err(Error::file("read", path, source)),
    };
    match parse(&text) {
        Ok((secret, public)) => Ok(KeyPair { secret, public, origin: Origin::Read, exposed: is_exposed(path)? }),
        Err(_) => {
            let aside = set_aside(path).map_err(|source| Error::file("rename", path, source))?;
            make(path, Origin::Remade(aside))
        }
    }
}

/// The key pair in the file at `path`, which is somebody else's: nothing is made or changed.
pub fn read_existing(path: &Path) -> Result<KeyPair, Error> {
    let text = read(path).map_err(|source| Error::file("read", path, source))?;
    let (secret, public) = parse(&text).map_err(|source| Error::Key { path: path.to_owned(), source })?;
    Ok(KeyPair { secret, public, origin: Origin::Read, exposed: is_exposed(path)? })
}

/// A key pair that nobody has written down.
pub fn generate() -> Result<KeyPair, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).map_err(|error| Error::Random(error.to_string()))?;
    // Clamped already here, so that every reader sees the key that is used (RFC 7748, section 5).
    bytes[0] &= 248;
    bytes[31] = bytes[31] & 127 | 64;
    let secret = SecretKey::from(*bytes);
    let public = public(&secret).map_err(|error| Error::Random(error.to_string()))?;
    Ok(KeyPair { secret, public, origin: Origin::Made, exposed: false })
}

fn is_exposed(path: &Path) -> Result<bool, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::file("read", path, source))?;
    Ok(metadata.permissions().mode() & 0o077 != 0)
}

/// The public key of `secret` (Curve25519, RFC 7748).
pub fn public(secret: &SecretKey) -> Result<PublicKey, KeyError> {
    let secret = StaticSecret::from(*secret.as_bytes());
    PublicKey::new(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    fs::File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

fn parse(text: &[u8]) -> Result<(SecretKey, PublicKey), KeyError> {
    let secret: SecretKey = std::str::from_utf8(text).map_err(|_| KeyError::Encoding)?.parse()?;
    let public = public(&secret)?;
    Ok((secret, public))
}

/// Renames the file at `path` to the first free `<path>.broken-<n>`.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    for n in 1..=BROKEN_KEPT {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".broken-{n}"));
        let aside = PathBuf::from(name);
        if !aside.try_exists()? {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many broken key files beside it"))
}

fn make(path: &Path, origin: Origin) -> Result<KeyPair, Error> {
    let unwritable = |source| Error::file("write", path, source);
    let pair = generate()?;
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritable)?;
    }
    let mut text = pair.secret.reveal();
    text.push('\n');
    file::replace(path, text.as_bytes(), 0o600, Survives::PowerLoss).map_err(unwritable)?;
    Ok(KeyPair { origin, ..pair })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        // Section 6.1: Alice's keys.
        let secret: SecretKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        assert_eq!(public(&secret).unwrap().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }
}
