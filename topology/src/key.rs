//! Curve25519 keys as WireGuard writes them: 32 bytes, base64 with padding (wg(8)).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why a text is not a WireGuard key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 of exactly 32 bytes.
    #[error("expected base64 of 32 bytes")]
    Encoding,
    /// The all-zero key, which stands for "no key" everywhere in WireGuard.
    #[error("the key is all zeroes")]
    Zero,
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let mut buffer = [0; 33];
    let length = STANDARD.decode_slice(text.trim(), &mut buffer).map_err(|_| KeyError::Encoding)?;
    let mut key = [0; 32];
    if length == key.len() {
        key.copy_from_slice(&buffer[..32]);
    }
    buffer.zeroize();
    match length {
        32 if key == [0; 32] => Err(KeyError::Zero),
        32 => Ok(key),
        _ => Err(KeyError::Encoding),
    }
}

/// A public key. Never all zeroes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key of these bytes, unless all are zero.
    pub fn new(bytes: [u8; 32]) -> Result<Self, KeyError> {
        if bytes == [0; 32] {
            return Err(KeyError::Zero);
        }
        Ok(Self(bytes))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private or preshared key: wiped when dropped, and its content cannot be formatted by accident.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// The secret's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The base64 form, for the one place that must write it (a key file, an INI a user asked for).
    pub fn reveal(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(STANDARD.encode(self.0))
    }
}

impl From<[u8; 32]> for SecretKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::str::FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form() {
        let key = PublicKey::new([7; 32]).unwrap();
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn wrong_lengths_and_zeroes_are_refused() {
        for text in
            ["", "AAAA", "not base64!", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33]), &"A".repeat(10_000)]
        {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Encoding), "{text}");
        }
        assert_eq!(STANDARD.encode([0; 32]).parse::<PublicKey>(), Err(KeyError::Zero));
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", SecretKey::from([1; 32])), "(secret)");
    }
}
