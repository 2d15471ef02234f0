//! Which nodes are alive, judged by what arrives and never by comparing clocks of different machines.
//!
//! A node shows that it lives by changing its `last-seen` annotation. It is taken for dead when it
//! has not done so for [`Membership::new`]'s timeout, but only by a judge that can hear: our own
//! check-in is written to the same API server and comes back through the same watch, and only that
//! *echo* lets time pass here. While the API server is away there are no echoes and the last known
//! state stays. A gap between echoes counts for what an ordinary one is worth, or for nothing if it
//! is as long as the timeout, so that the first echo after an outage, which may well precede the
//! check-ins of all others, drops nobody.

use std::{collections::BTreeMap, time::Duration};

use crate::NodeName;

#[derive(Clone, Copy, Debug)]
struct Seen {
    last_seen: i64,
    /// When the value was first seen or last seen to change, in monotonic time.
    at: Duration,
    /// How much had been heard at the first echo after that; `None`: there was none yet.
    silent_since: Option<Duration>,
    /// Whether it was seen to change. Until then its content is judged, too: it may be old.
    proven: bool,
    /// The local clock when the node was first seen, Unix seconds.
    wall: i64,
}

/// The liveness of every node. Times are monotonic, counted from any fixed moment.
#[derive(Clone, Debug)]
pub struct Membership {
    timeout: Duration,
    nodes: BTreeMap<NodeName, Seen>,
    last_echo: Option<Duration>,
    /// The time during which the API server was certainly there.
    heard: Duration,
    /// The newest check-in of the cluster, Unix seconds by the clock of whoever made it.
    newest: i64,
}

impl Membership {
    /// Nobody is known yet. `timeout` is how long a node may stay silent: two check-in periods
    /// (upstream: 60 s).
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, nodes: BTreeMap::new(), last_echo: None, heard: Duration::ZERO, newest: i64::MIN }
    }

    /// The watch says that `name` last checked in at `last_seen` (its clock, Unix seconds). `now` is
    /// monotonic, `wall` is the local clock in Unix seconds. Returns whether that is a new check-in of a
    /// node that was known.
    pub fn observe(&mut self, name: &NodeName, last_seen: i64, now: Duration, wall: i64) -> bool {
        self.newest = self.newest.max(last_seen);
        let first = Seen { last_seen, at: now, silent_since: None, proven: false, wall };
        let seen = self.nodes.entry(name.clone()).or_insert(first);
        let is_new = seen.last_seen != last_seen;
        if is_new {
            *seen = Seen { proven: true, ..first };
        }
        is_new
    }

    /// `name` is gone from the cluster.
    pub fn forget(&mut self, name: &NodeName) {
        self.nodes.remove(name);
    }

    /// Our own check-in has come back through the watch: what others did not say, they did not say. To one
    /// who does not check in, a check-in of anybody is as good.
    pub fn echo(&mut self, now: Duration) {
        let gap = self.last_echo.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        if gap < self.timeout {
            self.heard += gap.min(self.timeout / 2);
        }
        for seen in self.nodes.values_mut() {
            seen.silent_since.get_or_insert(self.heard);
        }
        self.last_echo = Some(now);
    }

    /// Whether `name` is taken to be alive.
    pub fn is_alive(&self, name: &NodeName) -> bool {
        self.nodes
            .get(name)
            .is_some_and(|seen| !self.was_silent(seen) && seen.last_seen != 0 && (seen.proven || self.was_recent(seen)))
    }

    /// Whether the timeout has passed and most of it was heard: the echoes of two check-in periods
    /// are enough in spite of jitter, that of one is not.
    fn was_silent(&self, seen: &Seen) -> bool {
        let passed = self.last_echo.map_or(Duration::ZERO, |echo| echo.saturating_sub(seen.at));
        let heard = seen.silent_since.map_or(Duration::ZERO, |since| self.heard.saturating_sub(since));
        passed >= self.timeout && heard >= self.timeout * 3 / 4
    }

    /// Whether a check-in time that was never seen to change was recent when it was first seen:
    /// against the local clock or, should that one run ahead, the newest check-in of the cluster.
    fn was_recent(&self, seen: &Seen) -> bool {
        let timeout = i64::try_from(self.timeout.as_secs()).unwrap_or(i64::MAX);
        seen.wall.min(self.newest).saturating_sub(seen.last_seen) < timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000;

    struct Lab {
        members: Membership,
        now: u64,
    }

    impl Lab {
        fn new() -> Self {
            Self { members: Membership::new(Duration::from_secs(60)), now: 0 }
        }

        fn check_in(&mut self, name: &str, clock: i64) {
            let (now, wall) = (Duration::from_secs(self.now), START + self.now as i64);
            self.members.observe(&name.into(), clock, now, wall);
        }

        fn echo(&mut self) {
            self.members.echo(Duration::from_secs(self.now));
        }

        fn alive(&self, name: &str) -> bool {
            self.members.is_alive(&name.into())
        }
    }

    #[test]
    fn a_silent_node_is_dropped_after_the_timeout() {
        let mut lab = Lab::new();
        lab.check_in("a", START);
        for now in [1, 31] {
            lab.now = now;
            lab.echo();
            assert!(lab.alive("a"), "{now}");
        }
        lab.now = 61;
        lab.echo();
        assert!(!lab.alive("a"));
        lab.check_in("a", START + 61);
        assert!(lab.alive("a"));
    }

    #[test]
    fn nobody_is_dropped_while_the_api_server_is_away_nor_when_it_returns() {
        let mut lab = Lab::new();
        lab.echo();
        lab.check_in("a", START);
        lab.now = 20;
        lab.echo();
        lab.now = 2000;
        assert!(lab.alive("a"));
        lab.echo();
        assert!(lab.alive("a"));
        lab.now = 2030;
        lab.echo();
        assert!(lab.alive("a"));
        lab.now = 2061;
        lab.echo();
        assert!(!lab.alive("a"), "it had its time to come back");
    }

    #[test]
    fn an_outage_shorter_than_the_timeout_drops_nobody_either() {
        let mut lab = Lab::new();
        lab.check_in("a", START);
        for now in [29, 60 + 28] {
            // The check-in that was due after 30 s could not be written until the outage was over.
            lab.now = now;
            lab.echo();
            assert!(lab.alive("a"), "{now}");
        }
        lab.now += 30;
        lab.echo();
        assert!(!lab.alive("a"));
    }

    #[test]
    fn who_was_dead_before_an_outage_stays_dead() {
        let mut lab = Lab::new();
        lab.echo();
        lab.check_in("a", START);
        for now in [30, 60, 90, 2000] {
            lab.now = now;
            lab.echo();
        }
        assert!(!lab.alive("a"));
    }

    #[test]
    fn skewed_clocks_drop_nobody_whose_check_ins_arrive() {
        let mut lab = Lab::new();
        lab.check_in("behind", START - 3600);
        lab.check_in("ahead", START + 3600);
        assert!(!lab.alive("behind"), "could be a node that died an hour ago");
        assert!(lab.alive("ahead"));
        for now in [30, 60, 90, 120] {
            lab.now = now;
            lab.check_in("behind", START - 3600 + now as i64);
            lab.check_in("ahead", START + 3600 + now as i64);
            lab.echo();
            assert!(lab.alive("behind") && lab.alive("ahead"), "{now}");
        }
    }

    #[test]
    fn a_node_that_was_only_just_met_survives_an_outage_too() {
        let mut lab = Lab::new();
        lab.check_in("a", START);
        lab.check_in("b", START);
        lab.echo();
        lab.now = 300;
        lab.check_in("a", START);
        lab.check_in("b", START + 300);
        assert!(lab.alive("a"));
        lab.echo();
        assert!(lab.alive("a"));
    }

    #[test]
    fn a_local_clock_that_runs_ahead_drops_nobody_at_the_start() {
        let mut lab = Lab::new();
        lab.check_in("dead", START - 800);
        lab.check_in("a", START - 600);
        lab.check_in("b", START - 590);
        assert!(lab.alive("a") && lab.alive("b") && !lab.alive("dead"));
        lab.echo();
        assert!(lab.alive("a") && lab.alive("b") && !lab.alive("dead"));
    }

    #[test]
    fn unknown_and_forgotten_nodes_and_those_that_never_checked_in_are_not_alive() {
        let mut lab = Lab::new();
        lab.check_in("a", START);
        lab.check_in("new", 0);
        assert!(lab.alive("a") && !lab.alive("new") && !lab.alive("b"));
        lab.members.forget(&"a".into());
        assert!(!lab.alive("a"));
    }
}
