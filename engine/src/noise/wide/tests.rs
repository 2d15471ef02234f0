//! Against `ring`, which has been tested by many.

use super::*;
use crate::noise::crypto::{Cipher, nonce};

const KEY: [u8; HASH] = {
    let mut key = [0; HASH];
    let mut i = 0;
    while i < HASH {
        key[i] = 0x80 + i as u8;
        i += 1;
    }
    key
};
/// Some with more than 32 bits, none in order.
const COUNTERS: [u64; LANES] =
    [7, 6, 0, u32::MAX as u64, 1 << 32, 1 << 63 | 3, u64::MAX - (1 << 14), 0x0706_0504_0302_0100];

/// `None`, and a word about it, where the processor cannot.
fn key() -> Option<Key> {
    let key = Key::new(&KEY);
    if key.is_none() {
        eprintln!("SKIPPED: the processor has no AVX-512 with IFMA");
    }
    key
}

/// Packets without a pattern, with room for tags.
fn packets(count: usize, len: usize) -> Vec<Vec<u8>> {
    let byte = |lane: usize, at: usize| (((lane + 1) * (at + 3) * 0x9e37) >> 7) as u8;
    let packet = |lane| (0..len).map(move |at| byte(lane, at)).chain([0; TAG]).collect();
    (0..count).map(packet).collect()
}

fn slices(messages: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
    messages.iter_mut().map(Vec::as_mut_slice).collect()
}

fn sealed_by_ring(count: usize, len: usize) -> Vec<Vec<u8>> {
    let mut messages = packets(count, len);
    for (message, counter) in messages.iter_mut().zip(COUNTERS) {
        let (plain, tag) = message.split_at_mut(len);
        tag.copy_from_slice(&Cipher::new(&KEY).seal(nonce(counter), &[], plain).unwrap());
    }
    messages
}

#[test]
fn any_number_of_messages_of_any_length_is_sealed_and_opened_as_by_ring() {
    let Some(key) = key() else { return };
    let lengths = (0..=400).chain([575, 576, 577, 1279, 1280, 1408, 1420, 1424, 1500, 8960, 65_000]);
    for (len, count) in lengths.map(|len| (len, LANES)).chain((1..LANES).map(|count| (1420, count))) {
        let expected = sealed_by_ring(count, len);
        let mut messages = packets(count, len);
        key.seal(&COUNTERS, &mut slices(&mut messages));
        assert!(messages == expected, "sealing {count} of {len} bytes");
        let right = key.open(&COUNTERS, &mut slices(&mut messages));
        assert_eq!(right, std::array::from_fn(|i| i < count), "opening {count} of {len} bytes");
        let plain = packets(count, len);
        assert!(messages.iter().zip(&plain).all(|(got, sent)| got[..len] == sent[..len]), "{count} of {len} bytes");
    }
}

/// RFC 8439, section 2.8.2, has additional data; A.5 has, too. Sums that carry far are what a mistake would be in, and
/// random bytes hardly ever make them.
#[test]
fn bytes_that_carry_far_are_sealed_and_opened_as_by_ring() {
    let Some(key) = key() else { return };
    let mut stream = vec![vec![0; 1024 + TAG]; LANES];
    key.seal(&COUNTERS, &mut slices(&mut stream));
    for byte in [0x00, 0xff, 0xfe, 0x80] {
        // What is encrypted is this byte everywhere.
        let mut messages: Vec<Vec<u8>> =
            stream.iter().map(|stream| stream[..1024].iter().map(|s| s ^ byte).chain([0; TAG]).collect()).collect();
        let mut expected = messages.clone();
        key.seal(&COUNTERS, &mut slices(&mut messages));
        assert!(messages.iter().all(|message| message[..1024].iter().all(|b| *b == byte)));
        for (message, counter) in expected.iter_mut().zip(COUNTERS) {
            let (plain, tag) = message.split_at_mut(1024);
            tag.copy_from_slice(&Cipher::new(&KEY).seal(nonce(counter), &[], plain).unwrap());
        }
        assert!(messages == expected, "{byte:#x}");
    }
}

#[test]
fn a_message_that_was_changed_is_told_from_the_others() {
    let Some(key) = key() else { return };
    let len = 100;
    for at in 0..len + TAG {
        let (mut messages, changed) = (sealed_by_ring(LANES, len), at % LANES);
        messages[changed][at] ^= 1 << (at % 8);
        let right = key.open(&COUNTERS, &mut slices(&mut messages));
        assert_eq!(right, std::array::from_fn(|i| i != changed), "byte {at} of message {changed}");
    }
}

#[test]
fn messages_too_short_for_a_tag_or_of_two_lengths_are_a_mistake_of_the_caller() {
    let Some(key) = key() else { return };
    for lengths in [&[TAG - 1][..], &[20, 21], &[20; LANES + 1]] {
        let mut messages: Vec<_> = lengths.iter().map(|len| vec![0; *len]).collect();
        let seal = std::panic::AssertUnwindSafe(|| key.seal(&COUNTERS, &mut slices(&mut messages)));
        assert!(std::panic::catch_unwind(seal).is_err(), "{lengths:?}");
    }
}
