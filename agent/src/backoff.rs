//! How long to wait before trying again: exponential with jitter, so that many agents that lost the
//! same API server do not return to it in step.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// An endless series of growing, randomised delays.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempt: u32,
    random: RandomState,
}

impl Backoff {
    /// Delays around `first`, twice that, and so on up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempt: 0, random: RandomState::new() }
    }

    /// The next delay: from half of the present step up to the whole.
    pub fn delay(&mut self) -> Duration {
        let step = self.first.saturating_mul(2u32.saturating_pow(self.attempt)).min(self.longest);
        self.attempt = self.attempt.saturating_add(1);
        let fraction = f64::from((self.random.hash_one(self.attempt) >> 32) as u32) / f64::from(u32::MAX);
        step.mul_f64(0.5 + fraction / 2.0)
    }

    /// Something worked: begin with the first delay again.
    pub fn succeeded(&mut self) {
        self.attempt = 0;
        self.random = RandomState::new();
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.delay())
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.succeeded();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        for step in [1, 2, 4, 8, 10, 10] {
            let (delay, step) = (backoff.delay(), Duration::from_secs(step));
            assert!(delay >= step / 2 && delay <= step, "{delay:?} of {step:?}");
        }
        (0..100).for_each(|_| assert!(backoff.delay() <= Duration::from_secs(10)));
        backoff.succeeded();
        assert!(backoff.delay() <= Duration::from_secs(1));
    }
}
