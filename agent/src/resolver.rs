//! DNS names of endpoints, resolved beside everything else: a name that does not resolve costs only
//! whoever is reached by it, and a name that did resolve keeps its last good answer.

use std::{collections::BTreeMap, future::pending, io, net::IpAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use topology::{Endpoint, Topology, report};
use tracing::{info, warn};

/// How long one question may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// The shortest time between two questions about one name.
const SHORTEST_REFRESH: Duration = Duration::from_secs(30);

/// How many questions may be open at once: each occupies a thread (getaddrinfo(3)).
const OPEN_QUESTIONS: usize = 8;

/// Asks for the addresses of a name.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The addresses of a name as the host's own programs would find them.
pub fn system() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// The DNS names of `topology`, each with one object that is reached by it.
pub fn names(topology: &Topology) -> BTreeMap<String, String> {
    let leaders =
        topology.segments.iter().map(|segment| (Some(&segment.endpoint), format!("node/{}", segment.leader().name)));
    let peers = topology.peers.iter().map(|peer| (peer.endpoint.as_ref(), format!("peer/{}", peer.name)));
    let named = leaders.chain(peers).filter_map(|(endpoint, object)| match endpoint? {
        Endpoint::Name(name, _) => Some((name.clone(), object)),
        Endpoint::Address(_) => None,
    });
    named.collect()
}

#[derive(Debug)]
struct Name {
    /// Whose endpoint it is, for the log.
    object: String,
    answer: Option<IpAddr>,
    /// The failure that was last told.
    complaint: Option<String>,
    /// When to ask again; `None` while a question is open.
    due: Option<Instant>,
}

type Answer = (String, Result<Vec<IpAddr>, String>);

/// The names in use and what is known of them.
pub struct Resolver {
    lookup: Lookup,
    refresh: Duration,
    prefer_v4: bool,
    names: BTreeMap<String, Name>,
    open: JoinSet<Answer>,
    permits: Arc<Semaphore>,
}

impl Resolver {
    /// Asks `lookup`, about each name every `period` or half a minute, whichever is longer.
    pub fn new(lookup: Lookup, period: Duration) -> Self {
        Self {
            lookup,
            refresh: period.max(SHORTEST_REFRESH),
            prefer_v4: true,
            names: BTreeMap::new(),
            open: JoinSet::new(),
            permits: Arc::new(Semaphore::new(OPEN_QUESTIONS)),
        }
    }

    /// The names in use now, each with the object whose endpoint it is; and whether this host would
    /// rather send IPv4.
    pub fn want(&mut self, names: BTreeMap<String, String>, prefer_v4: bool) {
        self.prefer_v4 = prefer_v4;
        self.names.retain(|name, _| names.contains_key(name));
        for (name, object) in names {
            let new = || Name { object, answer: None, complaint: None, due: Some(Instant::now()) };
            self.names.entry(name).or_insert_with(new);
        }
    }

    /// The addresses known of the names in use.
    pub fn answers(&self) -> BTreeMap<String, IpAddr> {
        self.names.iter().filter_map(|(name, known)| Some((name.clone(), known.answer?))).collect()
    }

    /// What is known of each name in use.
    pub fn known(&self) -> BTreeMap<String, report::Name> {
        let name = |known: &Name| report::Name {
            object: known.object.clone(),
            address: known.answer,
            error: known.complaint.clone(),
        };
        self.names.iter().map(|(text, known)| (text.clone(), name(known))).collect()
    }

    /// Asks what is due and waits until an address changes. Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) {
        loop {
            self.ask_what_is_due();
            let due = self.names.values().filter_map(|name| name.due).min();
            let answer = tokio::select! {
                Some(answer) = self.open.join_next() => answer,
                () = sleep_until(due) => continue,
            };
            // A question that was dropped or panicked leaves its name waiting for nothing: ask again.
            let Ok((name, addresses)) = answer else {
                let again = Instant::now() + self.refresh;
                self.names.values_mut().for_each(|name| _ = name.due.get_or_insert(again));
                continue;
            };
            if self.take(&name, addresses) {
                return;
            }
        }
    }

    fn ask_what_is_due(&mut self) {
        let now = Instant::now();
        for (name, known) in self.names.iter_mut().filter(|(_, known)| known.due.is_some_and(|due| due <= now)) {
            known.due = None;
            let (name, lookup, permits) = (name.clone(), self.lookup.clone(), self.permits.clone());
            self.open.spawn(async move {
                // The semaphore is never closed, so this waits and does not fail.
                let _permit = permits.acquire_owned().await;
                let addresses = match tokio::time::timeout(LOOKUP_LIMIT, lookup(name.clone())).await {
                    Ok(Ok(addresses)) if addresses.is_empty() => Err("no address".to_owned()),
                    Ok(result) => result.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {} s", LOOKUP_LIMIT.as_secs())),
                };
                (name, addresses)
            });
        }
    }

    /// Takes in an answer; returns whether the name's address is another one now.
    fn take(&mut self, name: &str, addresses: Result<Vec<IpAddr>, String>) -> bool {
        let Some(known) = self.names.get_mut(name) else { return false };
        known.due = Some(Instant::now() + self.refresh);
        match addresses {
            Ok(addresses) => {
                known.complaint = None;
                let before = known.answer;
                known.answer = choose(&addresses, before, self.prefer_v4).or(before);
                let changed = known.answer != before;
                if changed {
                    info!(object = known.object, name, address = ?known.answer, "endpoint resolved");
                }
                changed
            }
            Err(error) => {
                if known.complaint.as_ref() != Some(&error) {
                    warn!(object = known.object, name, kept = ?known.answer, error, "endpoint does not resolve");
                    known.complaint = Some(error);
                }
                false
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => pending().await,
    }
}

/// The address to use: the present one as long as it is among the answers, because servers answer in
/// changing order; else the first of the preferred family; else the first.
fn choose(addresses: &[IpAddr], present: Option<IpAddr>, prefer_v4: bool) -> Option<IpAddr> {
    let preferred = addresses.iter().find(|address| address.is_ipv4() == prefer_v4);
    present.filter(|present| addresses.contains(present)).or(preferred.or(addresses.first()).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A name server whose answers the test sets.
    #[derive(Clone, Default)]
    struct Zone(Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>);

    impl Zone {
        fn set(&self, name: &str, addresses: &[&str]) {
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            self.0.lock().unwrap().insert(name.to_owned(), addresses);
        }

        fn remove(&self, name: &str) {
            self.0.lock().unwrap().remove(name);
        }

        fn lookup(&self) -> Lookup {
            let zone = self.clone();
            Arc::new(move |name| {
                let found = zone.0.lock().unwrap().get(&name).cloned();
                Box::pin(async move {
                    match name.as_str() {
                        "slow" => pending().await,
                        _ => found.ok_or_else(|| io::Error::other("no such name")),
                    }
                })
            })
        }
    }

    fn names(names: &[&str]) -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), format!("peer/{name}"))).collect()
    }

    fn answers(pairs: &[(&str, &str)]) -> BTreeMap<String, IpAddr> {
        pairs.iter().map(|(name, ip)| ((*name).to_owned(), ip.parse().unwrap())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_name_and_a_slow_one_cost_only_themselves() {
        let zone = Zone::default();
        zone.set("good", &["192.0.2.1"]);
        let mut resolver = Resolver::new(zone.lookup(), Duration::from_secs(30));
        resolver.want(names(&["bad", "good", "slow"]), true);
        resolver.changed().await;
        assert_eq!(resolver.answers(), answers(&[("good", "192.0.2.1")]));
        zone.set("bad", &["192.0.2.2"]);
        resolver.changed().await;
        assert_eq!(resolver.answers(), answers(&[("bad", "192.0.2.2"), ("good", "192.0.2.1")]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_stays_until_a_better_one_comes() {
        let zone = Zone::default();
        zone.set("a", &["192.0.2.1"]);
        let mut resolver = Resolver::new(zone.lookup(), Duration::from_secs(30));
        resolver.want(names(&["a"]), true);
        resolver.changed().await;
        zone.remove("a");
        let unchanged = tokio::time::timeout(Duration::from_secs(300), resolver.changed()).await;
        assert!(unchanged.is_err());
        assert_eq!(resolver.answers(), answers(&[("a", "192.0.2.1")]));
        zone.set("a", &["192.0.2.7", "192.0.2.1"]);
        assert!(tokio::time::timeout(Duration::from_secs(300), resolver.changed()).await.is_err());
        zone.set("a", &["192.0.2.7"]);
        resolver.changed().await;
        assert_eq!(resolver.answers(), answers(&[("a", "192.0.2.7")]));
        resolver.want(names(&[]), true);
        assert_eq!(resolver.answers(), BTreeMap::new());
    }

    #[test]
    fn the_hosts_family_is_preferred() {
        let addresses = ["2001:db8::1", "192.0.2.1"].map(|text| text.parse().unwrap());
        assert_eq!(choose(&addresses, None, true), Some(addresses[1]));
        assert_eq!(choose(&addresses, None, false), Some(addresses[0]));
        assert_eq!(choose(&addresses[..1], None, true), Some(addresses[0]));
        assert_eq!(choose(&[], None, true), None);
    }
}
