//! One reconciliation for a burst of events: changes come in crowds, and each reconciliation reads
//! the host's whole state.

use std::time::Duration;

use tokio::time::Instant;

/// Silence after which a burst is over.
const QUIET: Duration = Duration::from_millis(50);

/// How long the first event of a burst waits at most.
const LONGEST: Duration = Duration::from_millis(250);

/// Whether something is to be done, and when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debounce {
    burst: Option<(Instant, Instant)>,
}

impl Debounce {
    /// Something happened at `now`.
    pub fn note(&mut self, now: Instant) {
        let first = self.burst.map_or(now, |(first, _)| first);
        self.burst = Some((first, now));
    }

    /// When it is time to act; `None` while there is nothing to do.
    pub fn due(&self) -> Option<Instant> {
        self.burst.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }

    /// Waits until it is time to act; for ever while there is nothing to do.
    pub async fn ripe(self) {
        match self.due() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// What was noted is being done.
    pub fn clear(&mut self) {
        self.burst = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_event_and_cannot_delay_it_for_ever() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut debounce = Debounce::default();
        assert_eq!(debounce.due(), None);
        for (event, due) in [(0, 50), (40, 90), (80, 130), (230, 250), (400, 250)] {
            debounce.note(at(event));
            assert_eq!(debounce.due(), Some(at(due)), "{event}");
        }
        debounce.clear();
        assert_eq!(debounce.due(), None);
    }
}
