//! Which counters have been seen: the sliding window of RFC 6479 with the size that Linux gives it
//! (`COUNTER_BITS_TOTAL` and `COUNTER_WINDOW_SIZE` in `receive.c` and `messages.h`).

const WORD: u64 = 64;
const WORDS: u64 = 128;
/// How far behind the newest counter another one may be: one word is always being refilled.
const SIZE: u64 = WORD * (WORDS - 1);
/// No message with this counter or a higher one is sent or accepted (paper, section 6.1).
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// The counters of the messages that were accepted lately.
pub(crate) struct Window {
    /// The highest counter accepted, plus one.
    next: u64,
    seen: [u64; WORDS as usize],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS as usize] }
    }
}

impl Window {
    /// Whether no message with this counter was accepted before; none will be again.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES || counter + SIZE + 1 < self.next {
            return false;
        }
        let word = counter / WORD;
        if counter >= self.next {
            // The words between the newest and this one now stand for other counters.
            let newest = self.next.checked_sub(1).map_or(0, |newest| newest / WORD);
            for passed in 1..=(word - newest).min(WORDS) {
                self.seen[((newest + passed) % WORDS) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = (&mut self.seen[(word % WORDS) as usize], 1 << (counter % WORD));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_window_is_as_long_as_in_linux() {
        let mut window = Window::default();
        assert!(window.accept(SIZE + 1));
        assert!(window.accept(1), "as far behind as may be");
        assert!(!window.accept(0), "one further");
        assert!(!window.accept(1) && !window.accept(SIZE + 1), "again");
        assert!(!window.accept(REJECT_AFTER_MESSAGES));
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(SIZE + 2));
    }

    proptest! {
        /// The window behaves as a list of everything that was accepted does.
        #[test]
        fn equals_a_set(steps in proptest::collection::vec(prop_oneof![
            4 => 0u64..200, 2 => 0u64..20_000, 1 => 0u64..200_000,
        ], 1..400), base in prop_oneof![Just(0u64), 0u64..REJECT_AFTER_MESSAGES / 2]) {
            let (mut window, mut seen) = (Window::default(), BTreeSet::new());
            for step in steps {
                let counter = base + step;
                let too_old = seen.last().is_some_and(|newest| counter + SIZE < *newest);
                let expected = !too_old && seen.insert(counter);
                prop_assert_eq!(window.accept(counter), expected, "{}", counter);
            }
        }
    }
}
