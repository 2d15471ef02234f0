//! Who takes frames from a queue of TUN.
//!
//! Each queue has two threads, one for each way. While little comes, that of the way in does both: a packet and its answer
//! then wake one thread, which is still in the cache and, more often than not, on the processor that woke it. As soon as
//! more comes than that, the thread of the way out waits for frames itself, until it is quiet again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Frames in a millisecond from which on one thread is not enough.
const MANY: u32 = 8;
/// Of which it is said whether it was quiet.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
/// Frames in a period from which on it was not.
const FEW: u32 = 100;

/// Of one queue.
#[derive(Default)]
pub(crate) struct Turn {
    /// What was taken is sent before it is released, so that packets keep their order.
    taking: Mutex<()>,
    busy: AtomicBool,
}

impl Turn {
    /// Waits until nobody else takes frames.
    pub(crate) fn take(&self) -> MutexGuard<'_, ()> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while somebody else takes frames.
    pub(crate) fn try_take(&self) -> Option<MutexGuard<'_, ()>> {
        match self.taking.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether the thread of the way out waits for frames, and not that of the way in. Whoever waits is who changes it,
    /// and then wakes the other one.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }
}

/// How many frames come. Times are in milliseconds.
#[derive(Default)]
pub(crate) struct Pace {
    since: u64,
    frames: u32,
}

impl Pace {
    pub(crate) fn beginning(now: u64) -> Self {
        Self { since: now, frames: 0 }
    }

    /// Counts a frame that has come while there was little; returns whether there still is. A frame of several packets is
    /// what transfers send.
    pub(crate) fn stays_quiet(&mut self, packets: usize, now: u64) -> bool {
        if self.since != now {
            *self = Self::beginning(now);
        }
        self.frames += 1;
        packets <= 1 && self.frames < MANY
    }

    /// Counts frames that have come while there was much; returns whether a period has passed in which there was little.
    pub(crate) fn has_calmed_down(&mut self, frames: u32, now: u64) -> bool {
        self.frames = self.frames.saturating_add(frames);
        if u128::from(now - self.since) < PERIOD.as_millis() {
            return false;
        }
        let few = self.frames < FEW;
        *self = Self::beginning(now);
        few
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = PERIOD.as_millis() as u64;

    #[test]
    fn a_transfer_or_many_frames_at_once_are_not_quiet() {
        let mut pace = Pace::default();
        assert!((0..100).all(|now| pace.stays_quiet(1, now)), "one a millisecond");
        assert!(!pace.stays_quiet(2, 100));
        let quiet = (0..MANY).take_while(|_| pace.stays_quiet(1, 101)).count();
        assert_eq!(quiet as u32, MANY - 1);
        assert!(pace.stays_quiet(1, 102), "counted anew");
    }

    #[test]
    fn calm_is_a_period_with_few_frames() {
        let mut pace = Pace::beginning(1000);
        assert!(!pace.has_calmed_down(1, 1000 + LENGTH - 1), "not yet");
        assert!(pace.has_calmed_down(FEW - 2, 1000 + LENGTH));
        assert!(!pace.has_calmed_down(FEW, 1000 + 2 * LENGTH), "too many");
        assert!(pace.has_calmed_down(0, 1000 + 3 * LENGTH), "counted anew");
        assert!(!pace.has_calmed_down(u32::MAX, 1000 + 3 * LENGTH) && !pace.has_calmed_down(1, 1000 + 5 * LENGTH));
    }
}
