//! Whether the event loop still turns: what `/health` answers.
//!
//! Nothing else counts as ill. An API server that is away or a host that refuses a route would not be
//! healed by the restart that a failed liveness probe leads to, and the restart would cost the tunnels.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How much later than its longest wait the loop may be: several times what the slowest step, a
/// program that hangs, is given.
const MARGIN: Duration = Duration::from_secs(120);

/// The loop's sign of life. Clones share it.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds from `start` to the last beat.
    last: Arc<AtomicU64>,
    limit: Duration,
}

impl Pulse {
    /// The pulse of a loop that waits no longer than `period` for its next event. Being made is its
    /// first beat.
    pub fn new(period: Duration) -> Self {
        Self { start: Instant::now(), last: Arc::default(), limit: period + MARGIN }
    }

    /// The loop turns.
    pub fn beat(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// How long the loop has not turned, if that is too long.
    pub fn stopped_for(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        Some(self.start.elapsed().saturating_sub(last)).filter(|age| *age > self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_turn_is_ill_until_it_does() {
        let pulse = Pulse::new(Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(150)).await;
        assert_eq!(pulse.stopped_for(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse.stopped_for(), Some(Duration::from_secs(151)));
        pulse.beat();
        assert_eq!(pulse.stopped_for(), None);
    }
}
