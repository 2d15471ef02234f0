//! What is due when (WireGuard paper, section 6, as Linux does it in `timers.c`).
//!
//! The data path only notes what happened; the control thread asks what is due. All times are milliseconds of the
//! device's clock. Notes from several threads may overtake each other by a hair: a timer is then due a millisecond
//! earlier or later.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::session::REJECT_AFTER;

/// Between two initiations, at least (`REKEY_TIMEOUT`).
pub(crate) const REKEY_TIMEOUT: u64 = 5_000;
/// After data came and nothing was sent (`KEEPALIVE_TIMEOUT`).
const KEEPALIVE_TIMEOUT: u64 = 10_000;
/// Initiations that are repeated before giving up: `REKEY_ATTEMPT_TIME` over `REKEY_TIMEOUT`, and one more as in Linux.
const MAX_RETRIES: u32 = 90 / 5 + 1;
/// Random delay of retries, below this, so that two sides do not keep meeting (`REKEY_TIMEOUT_JITTER_MAX`).
pub(crate) const MAX_JITTER: u64 = 334;
/// When all keys are forgotten after the last handshake.
const FORGET_AFTER: u64 = 3 * REJECT_AFTER;

/// A moment, or none.
#[derive(Default)]
struct Deadline(AtomicU64);

impl Deadline {
    fn set(&self, at: u64) {
        self.0.store(at.max(1), Relaxed);
    }

    fn clear(&self) {
        // Most often there is nothing to clear, and a write would take the line from the other threads.
        if self.is_set() {
            self.0.store(0, Relaxed);
        }
    }

    fn is_set(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Whether the moment has come; it comes once.
    fn take(&self, now: u64) -> bool {
        let at = self.0.load(Relaxed);
        at != 0 && at <= now && self.0.compare_exchange(at, 0, Relaxed, Relaxed).is_ok()
    }
}

/// The timers of one peer.
#[derive(Default)]
pub(crate) struct Timers {
    /// An initiation was not answered.
    retransmit: Deadline,
    /// Data came, and nothing was sent that tells the peer so.
    keepalive: Deadline,
    /// Data was sent, and nothing came back.
    new_handshake: Deadline,
    forget: Deadline,
    attempts: AtomicU32,
    /// More data came after the one that set `keepalive`.
    another_keepalive: AtomicBool,
    /// A receiver renews a session once.
    renewed_late: AtomicBool,
    /// When any authenticated message last went either way.
    last_traversal: AtomicU64,
    jitter: AtomicU64,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) initiation: Option<Initiation>,
    pub(crate) keepalive: bool,
    /// Nobody answers: forget what waits to be sent.
    pub(crate) give_up: bool,
    /// Forget all keys.
    pub(crate) forget: bool,
}

/// Why a handshake begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initiation {
    /// There is a reason for one.
    New,
    /// The one before was not answered.
    Retry,
}

impl Timers {
    /// `jitter` is a random number below [`MAX_JITTER`].
    pub(crate) fn initiation_sent(&self, reason: Initiation, jitter: u64, now: u64) {
        if reason == Initiation::New {
            self.attempts.store(0, Relaxed);
        }
        self.jitter.store(jitter, Relaxed);
        self.retransmit.set(now + REKEY_TIMEOUT + jitter);
    }

    pub(crate) fn session_made(&self, now: u64) {
        self.forget.set(now + FORGET_AFTER);
    }

    pub(crate) fn handshake_completed(&self) {
        self.retransmit.clear();
        self.attempts.store(0, Relaxed);
        self.renewed_late.store(false, Relaxed);
    }

    /// Any authenticated message was sent, data if `data`.
    pub(crate) fn sent(&self, data: bool, now: u64) {
        self.last_traversal.store(now, Relaxed);
        self.keepalive.clear();
        if data && !self.new_handshake.is_set() {
            self.new_handshake.set(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.jitter.load(Relaxed));
        }
    }

    /// Any authenticated message was received, data if `data`.
    pub(crate) fn received(&self, data: bool, now: u64) {
        self.last_traversal.store(now, Relaxed);
        self.new_handshake.clear();
        if !data {
            return;
        }
        if self.keepalive.is_set() {
            if !self.another_keepalive.load(Relaxed) {
                self.another_keepalive.store(true, Relaxed);
            }
        } else {
            self.keepalive.set(now + KEEPALIVE_TIMEOUT);
        }
    }

    /// Whether a receiver may ask for a new session: once, until there is one.
    pub(crate) fn may_renew_late(&self) -> bool {
        !self.renewed_late.load(Relaxed) && !self.renewed_late.swap(true, Relaxed)
    }

    /// Milliseconds since anything authenticated went either way.
    pub(crate) fn silence(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_traversal.load(Relaxed))
    }

    /// What is due, once.
    pub(crate) fn due(&self, now: u64) -> Due {
        let mut due = Due::default();
        if self.retransmit.take(now) {
            if self.attempts.fetch_add(1, Relaxed) >= MAX_RETRIES {
                self.keepalive.clear();
                due.give_up = true;
                if !self.forget.is_set() {
                    self.forget.set(now + FORGET_AFTER);
                }
            } else {
                due.initiation = Some(Initiation::Retry);
            }
        }
        if self.keepalive.take(now) {
            due.keepalive = true;
            if self.another_keepalive.swap(false, Relaxed) {
                self.keepalive.set(now + KEEPALIVE_TIMEOUT);
            }
        }
        if self.new_handshake.take(now) {
            due.initiation.get_or_insert(Initiation::New);
        }
        due.forget = self.forget.take(now);
        due
    }

    /// As if nothing had ever happened.
    pub(crate) fn reset(&self) {
        for deadline in [&self.retransmit, &self.keepalive, &self.new_handshake, &self.forget] {
            deadline.clear();
        }
        self.attempts.store(0, Relaxed);
        self.another_keepalive.store(false, Relaxed);
        self.renewed_late.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Due = Due { initiation: Some(Initiation::Retry), keepalive: false, give_up: false, forget: false };
    const NOTHING: Due = Due { initiation: None, keepalive: false, give_up: false, forget: false };

    #[test]
    fn initiations_are_repeated_for_a_while() {
        let timers = Timers::default();
        timers.initiation_sent(Initiation::New, 100, 0);
        let mut now = 0;
        for _ in 0..MAX_RETRIES {
            assert_eq!(timers.due(now + 5_099), NOTHING);
            now += 5_100;
            assert_eq!(timers.due(now), RETRY);
            timers.initiation_sent(Initiation::Retry, 100, now);
        }
        assert_eq!(timers.due(now + 5_100), Due { give_up: true, ..NOTHING });
        assert_eq!(timers.due(now + 5_100 + FORGET_AFTER), Due { forget: true, ..NOTHING });
        assert_eq!(timers.due(u64::MAX), NOTHING);

        timers.initiation_sent(Initiation::New, 0, 0);
        timers.handshake_completed();
        assert_eq!(timers.due(u64::MAX), NOTHING, "answered");
    }

    #[test]
    fn who_only_receives_says_so_after_ten_seconds() {
        let timers = Timers::default();
        timers.received(true, 1_000);
        timers.received(true, 2_000);
        assert_eq!(timers.due(10_999), NOTHING);
        assert!(timers.due(11_000).keepalive);
        assert_eq!(timers.due(20_999), NOTHING);
        assert!(timers.due(21_000).keepalive, "there was more than the first told of");
        assert_eq!(timers.due(u64::MAX), NOTHING);
        timers.received(true, 30_000);
        timers.sent(false, 31_000);
        assert_eq!(timers.due(u64::MAX), NOTHING, "what was sent tells enough");
        timers.received(false, 40_000);
        assert_eq!(timers.due(u64::MAX), NOTHING, "keepalives are not answered");
    }

    #[test]
    fn data_without_any_answer_begins_a_handshake_after_fifteen_seconds() {
        let timers = Timers::default();
        timers.sent(true, 1_000);
        timers.sent(true, 9_000);
        assert_eq!(timers.due(15_999), NOTHING);
        assert_eq!(timers.due(16_000).initiation, Some(Initiation::New));
        timers.sent(true, 20_000);
        timers.received(false, 21_000);
        timers.sent(false, 22_000);
        assert_eq!(timers.due(u64::MAX), NOTHING);
        assert_eq!(timers.silence(22_500), 500);
    }

    #[test]
    fn keys_are_forgotten_and_late_renewals_asked_for_once() {
        let timers = Timers::default();
        timers.session_made(1);
        assert!(!timers.due(FORGET_AFTER).forget);
        assert!(timers.due(FORGET_AFTER + 1).forget);
        assert!(timers.may_renew_late() && !timers.may_renew_late());
        timers.handshake_completed();
        assert!(timers.may_renew_late());
        timers.session_made(1);
        timers.reset();
        assert_eq!(timers.due(u64::MAX), NOTHING);
    }
}
