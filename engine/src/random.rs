//! Randomness from the kernel.

/// Random bytes; `None` only on a kernel that gives none, where nothing that needs a key can be done.
pub(crate) fn bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A random number.
pub(crate) fn number() -> Option<u32> {
    bytes().map(u32::from_ne_bytes)
}
