//! Key material that cannot be printed and does not outlive its use in memory.

use std::fmt;
use std::ops::Deref;

use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A Curve25519 public key, the name of a peer (WireGuard paper, section 5).
pub type PublicKey = [u8; 32];

/// A 32-byte secret: a private key or a preshared key. Zeroed when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The bytes. Whoever copies them is responsible for zeroing the copy.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key that belongs to this private key.
    pub fn public_key(&self) -> PublicKey {
        Point::from(&StaticSecret::from(self.0)).to_bytes()
    }

    /// True if every byte is zero, which the configuration protocol uses for "no key".
    pub fn is_zero(&self) -> bool {
        self.0.iter().fold(0, |all, byte| all | byte) == 0
    }
}

impl From<[u8; 32]> for Secret {
    fn from(mut bytes: [u8; 32]) -> Self {
        let secret = Self(bytes);
        bytes.zeroize();
        secret
    }
}

/// Takes the same time wherever the first difference is.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        difference == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Bytes with keys among them. Zeroed when dropped, and so is the memory that they grow out of.
#[derive(Default)]
pub(crate) struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    pub(crate) fn extend(&mut self, more: &[u8]) {
        let len = self.len() + more.len();
        if len > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * len));
            larger.extend_from_slice(self);
            self.0 = larger;
        }
        self.0.extend_from_slice(more);
    }

    /// Takes away the first `len` bytes.
    pub(crate) fn remove_front(&mut self, len: usize) {
        self.0.drain(..len);
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Write for SecretBytes {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.extend(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn bytes_leave_nothing_where_they_were() {
        const MARK: [u8; 16] = [0xa7; 16];
        let mut bytes = SecretBytes::default();
        bytes.extend(&[MARK[0]; 1000]);
        let place = bytes.as_ptr().addr() as u64;
        bytes.extend(&[0; 10_000]);
        assert!(bytes.starts_with(&[MARK[0]; 1000]) && bytes.len() == 11_000);
        let mut left = [0; 1000];
        // What cannot be read is not there any more.
        if File::open("/proc/self/mem").unwrap().read_exact_at(&mut left, place).is_ok() {
            assert!(!left.windows(MARK.len()).any(|bytes| bytes == MARK));
        }
        bytes.remove_front(1_000);
        assert!(bytes.len() == 10_000 && bytes.iter().all(|byte| *byte == 0));
    }
}
