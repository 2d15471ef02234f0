//! Key material that cannot be printed and does not outlive its use in memory.

use std::fmt;

use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

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
