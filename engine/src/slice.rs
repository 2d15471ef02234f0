//! How long a time slice the thread of the way in asks for.
//!
//! While packets without flow control come as fast as they can, it makes way for whoever they are for a thousand times a
//! second, and must not lose a long slice each time. While little comes, a short slice would only let it interrupt who has
//! just woken it: a sender that has not yet gone to sleep, whose processor then looks taken to the scheduler, so that the
//! next thread in line is woken on another one, which has to leave its sleep and has nothing in its cache.

use std::time::Duration;

const SHORT: Duration = Duration::from_micros(100);
/// What the scheduler gives who does not ask.
const USUAL: Duration = Duration::ZERO;
/// Milliseconds without a large batch of such packets after which there is little to do.
const CALM: u64 = 100;

#[derive(Default)]
pub(crate) struct Slice {
    is_short: bool,
    /// When there was a batch with many last, in milliseconds.
    last: u64,
}

impl Slice {
    /// Takes note of a batch that was received, and whether it had many such packets; returns the slice to ask for, if it
    /// is to be another one.
    pub(crate) fn after_batch(&mut self, is_much: bool, now: u64) -> Option<Duration> {
        if is_much {
            self.last = now;
        }
        let short = is_much || (self.is_short && now < self.last + CALM);
        let changes = short != self.is_short;
        self.is_short = short;
        changes.then_some(if short { SHORT } else { USUAL })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_from_the_first_such_batch_until_none_came_for_a_while() {
        let mut slice = Slice::default();
        assert_eq!(slice.after_batch(false, 5), None);
        assert_eq!(slice.after_batch(true, 10), Some(SHORT));
        assert_eq!(slice.after_batch(true, 60), None);
        assert_eq!(slice.after_batch(false, 60 + CALM - 1), None);
        assert_eq!(slice.after_batch(false, 60 + CALM), Some(USUAL));
        assert_eq!(slice.after_batch(false, 1000), None);
    }
}
