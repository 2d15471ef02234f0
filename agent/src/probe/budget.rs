//! How often probes may run: a token bucket.

use std::time::Duration;

use tokio::time::Instant;

/// So many may run at once after a while without any…
const BURST: u32 = 40;
/// … and then one each time this passes.
const PERIOD: Duration = Duration::from_millis(500);

/// What is left to be spent.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// When the bucket would be full.
    full: Instant,
}

impl Budget {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes one, if there is one at `now`.
    pub fn take(&mut self, now: Instant) -> bool {
        let full = self.full.max(now) + PERIOD;
        let is_enough = full.duration_since(now) <= PERIOD * BURST;
        if is_enough {
            self.full = full;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_steady_pace() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut taken = |after: Duration| (0..1000).filter(|_| budget.take(start + after)).count();
        assert_eq!(taken(Duration::ZERO), 40);
        assert_eq!(taken(PERIOD), 1);
        assert_eq!(taken(PERIOD * 4), 3);
        assert_eq!(taken(PERIOD * 1000), 40);
    }
}
