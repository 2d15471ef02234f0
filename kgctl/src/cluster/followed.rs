//! What is known of a cluster that is followed: its nodes by a watch, and who of them is alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use agent::cluster::{Change, NodeRecord};
use topology::{Membership, Node, annotations, join::Found};

use super::describe::Reading;
use crate::mesh::CHECK_IN_TIMEOUT;

/// A cluster as its watches show it.
pub struct Followed {
    /// Its nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Who of them is alive.
    pub membership: Membership,
    /// The Peers at the last look; `None`: there was none yet.
    pub peers: Option<Vec<Found>>,
    /// Whether there was a list of all nodes yet.
    pub is_listed: bool,
    /// Whether its nodes cannot be seen now.
    pub is_lost: bool,
    /// Since when there was no gap, Unix seconds.
    pub since: i64,
}

/// What an event says besides the state that it leads to.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    /// Somebody who was known has checked in.
    has_check_in: bool,
    /// More than check-ins changed.
    differs: bool,
}

/// A node without what changes at each check-in.
fn lasting(node: &Node) -> Node {
    Node { last_seen: 0, discovered_endpoints: BTreeMap::new(), ..node.clone() }
}

impl Followed {
    /// A cluster of which nothing is known yet, at `now` (Unix seconds).
    pub fn new(now: i64) -> Self {
        Self {
            nodes: BTreeMap::new(),
            membership: Membership::new(CHECK_IN_TIMEOUT),
            peers: None,
            is_listed: false,
            is_lost: true,
            since: now,
        }
    }

    /// Takes in what a watch says of nodes, at the monotonic time `at` and the wall time `now`; tells
    /// whether more than check-ins changed.
    pub fn take(&mut self, seen: Change<NodeRecord>, reading: &Reading, at: Duration, now: i64) -> bool {
        if std::mem::take(&mut self.is_lost) {
            self.since = now;
        }
        let decode = |record: &NodeRecord| annotations::decode(&record.as_object(), &reading.topology_label).0;
        let mut news = News::default();
        match seen {
            Change::Apply(record) => self.put(decode(&record), at, now, &mut news),
            Change::Delete(name) => self.remove(&name, &mut news),
            Change::Reset(records) => {
                self.is_listed = true;
                let listed: BTreeSet<&str> = records.iter().map(|record| record.name.as_str()).collect();
                let gone = self.nodes.keys().filter(|name| !listed.contains(name.as_str())).cloned();
                gone.collect::<Vec<_>>().iter().for_each(|name| self.remove(name, &mut news));
                records.iter().for_each(|record| self.put(decode(record), at, now, &mut news));
            }
        }
        if news.has_check_in {
            // Somebody was heard: whoever is silent now is silent by itself.
            self.membership.echo(at);
        }
        news.differs
    }

    fn put(&mut self, node: Node, at: Duration, now: i64, news: &mut News) {
        let old = self.nodes.get(node.name.as_str());
        if old.is_none_or(|old| old.last_seen != node.last_seen) {
            self.membership.observe(&node.name, node.last_seen, at, now);
            news.has_check_in |= old.is_some();
        }
        news.differs |= old.map(lasting) != Some(lasting(&node));
        self.nodes.insert(node.name.to_string(), node);
    }

    fn remove(&mut self, name: &str, news: &mut News) {
        if let Some(node) = self.nodes.remove(name) {
            self.membership.forget(&node.name);
            news.differs = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn record(name: &str, last_seen: i64, more: &[(&str, &str)]) -> NodeRecord {
        let last_seen = last_seen.to_string();
        let all = [(annotations::LAST_SEEN, last_seen.as_str()), (annotations::LOCATION, "paris")];
        NodeRecord {
            name: name.to_owned(),
            annotations: all.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..NodeRecord::default()
        }
    }

    /// A cluster of which events are seen as time passes.
    struct Scene {
        cluster: Followed,
        elapsed: u64,
    }

    impl Scene {
        fn new() -> Self {
            let mut scene = Self { cluster: Followed::new(NOW), elapsed: 0 };
            assert!(scene.see(Change::Reset(vec![record("a", NOW, &[]), record("b", NOW, &[])])));
            scene
        }

        fn now(&self) -> i64 {
            NOW + i64::try_from(self.elapsed).unwrap()
        }

        fn see(&mut self, seen: Change<NodeRecord>) -> bool {
            let reading = Reading { topology_label: "region".to_owned(), granularity: None };
            let (at, now) = (Duration::from_secs(self.elapsed), self.now());
            self.cluster.take(seen, &reading, at, now)
        }

        /// Lets `name` check in every 30 s for so long.
        fn check_ins(&mut self, name: &str, seconds: u64) {
            for _ in 0..seconds / 30 {
                self.elapsed += 30;
                let record = record(name, self.now(), &[]);
                assert!(!self.see(Change::Apply(record)), "a check-in alone changes nothing");
            }
        }

        fn alive(&self) -> Vec<&str> {
            let nodes = self.cluster.nodes.values();
            nodes
                .map(|node| node.name.as_str())
                .filter(|name| self.cluster.membership.is_alive(&(*name).into()))
                .collect()
        }
    }

    #[test]
    fn who_is_silent_while_another_is_heard_is_dead() {
        let mut scene = Scene::new();
        scene.check_ins("b", 30);
        assert_eq!(scene.alive(), ["a", "b"]);
        scene.check_ins("b", 90);
        assert_eq!(scene.alive(), ["b"]);
    }

    #[test]
    fn nobody_is_dead_because_nobody_is_heard() {
        let mut scene = Scene::new();
        scene.elapsed = 3600;
        assert_eq!(scene.alive(), ["a", "b"]);
        // The API server is back with what it had, and the first one checks in.
        let listed = vec![record("a", NOW, &[]), record("b", NOW, &[])];
        assert!(!scene.see(Change::Reset(listed)));
        scene.check_ins("b", 30);
        assert_eq!(scene.alive(), ["a", "b"]);
        scene.check_ins("b", 120);
        assert_eq!(scene.alive(), ["b"]);
    }

    #[test]
    fn what_lasts_makes_a_difference() {
        let mut scene = Scene::new();
        scene.elapsed = 1;
        assert!(scene.see(Change::Apply(record("a", NOW + 1, &[(annotations::LEADER, "")]))));
        let seen = record("a", NOW + 2, &[(annotations::LEADER, ""), (annotations::DISCOVERED_ENDPOINTS, "null")]);
        assert!(!scene.see(Change::Apply(seen)));
        assert!(scene.see(Change::Delete("b".to_owned())));
        assert_eq!(scene.alive(), ["a"]);
    }

    #[test]
    fn time_counts_from_when_a_lost_cluster_is_seen_again() {
        let mut scene = Scene::new();
        scene.elapsed = 600;
        scene.check_ins("a", 30);
        assert_eq!(scene.cluster.since, NOW);
        scene.cluster.is_lost = true;
        scene.check_ins("a", 30);
        assert_eq!((scene.cluster.since, scene.cluster.is_lost), (NOW + 660, false));
    }
}
