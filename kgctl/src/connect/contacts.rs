//! Who of the mesh answers: what a person wants to know of a tunnel, told once each time it changes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use topology::{DevicePlan, PeerStatistics, PublicKey};

/// How long the first answer may take before it is missed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Age of a handshake at which there is no connection any more (`Reject-After-Time`, WireGuard
/// whitepaper, section 6.1).
const LONGEST_SILENCE: Duration = Duration::from_secs(180);

/// How somebody stands to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// Asked since, and no answer yet.
    Waiting(Duration),
    /// No answer for so long that it was told.
    Missed,
    /// Answers.
    Up,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A handshake was made, the first or the first after a silence.
    Connected {
        /// With whom.
        with: String,
        /// Where.
        at: SocketAddr,
    },
    /// There was none, or none any more.
    Missing {
        /// Of whom.
        of: String,
        /// Where.
        at: SocketAddr,
    },
}

/// Everybody that this machine has to do with.
#[derive(Debug, Default)]
pub struct Contacts(BTreeMap<PublicKey, Contact>);

impl Contacts {
    /// Takes note of what the device knows. `names` are for people; `now` is monotonic, `wall` the clock.
    ///
    /// An answer is missed only of one who is asked: without keepalives nobody is until there is something
    /// to send, and other peers may well not know this machine.
    pub fn update(
        &mut self,
        device: &DevicePlan,
        names: &BTreeMap<PublicKey, String>,
        statistics: &[PeerStatistics],
        now: Duration,
        wall: SystemTime,
    ) -> Vec<News> {
        self.0.retain(|key, _| device.peers.contains_key(key));
        let mut news = Vec::new();
        for peer in statistics {
            let (Some(wanted), Some(at)) = (device.peers.get(&peer.key), peer.endpoint) else { continue };
            let contact = self.0.entry(peer.key).or_insert(Contact::Waiting(now));
            // A clock that was set back makes a handshake young, not old.
            let age = |time: SystemTime| wall.duration_since(time).unwrap_or_default();
            let is_up = peer.last_handshake.is_some_and(|time| age(time) < LONGEST_SILENCE);
            let is_asked = !wanted.persistent_keepalive.is_zero() && names.contains_key(&peer.key);
            let name = || names.get(&peer.key).unwrap_or(&wanted.label).clone();
            let next = match *contact {
                Contact::Waiting(_) | Contact::Missed if is_up => Contact::Up,
                Contact::Waiting(since) if is_asked && now.saturating_sub(since) >= PATIENCE => Contact::Missed,
                Contact::Up if !is_up && is_asked => Contact::Missed,
                Contact::Up if !is_up => Contact::Waiting(now),
                unchanged => unchanged,
            };
            match next {
                Contact::Up if *contact != next => news.push(News::Connected { with: name(), at }),
                Contact::Missed if *contact != next => news.push(News::Missing { of: name(), at }),
                _ => {}
            }
            *contact = next;
        }
        news
    }

    /// Whether somebody's answer is waited for.
    pub fn is_waiting(&self) -> bool {
        self.0.values().any(|contact| matches!(contact, Contact::Waiting(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use topology::{DevicePeer, Seconds};

    use super::*;

    const SEGMENT: u8 = 1;
    const OTHER_PEER: u8 = 2;

    fn key(n: u8) -> PublicKey {
        PublicKey::new([n; 32]).unwrap()
    }

    /// A segment with this keepalive and another peer.
    struct Lab {
        contacts: Contacts,
        keepalive: u16,
    }

    impl Lab {
        fn at(&mut self, seconds: u64, handshakes: &[(u8, u64)]) -> Vec<String> {
            let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
            let peer = |label: &str| DevicePeer {
                label: label.to_owned(),
                preshared_key: None,
                endpoint: None,
                persistent_keepalive: Seconds(self.keepalive),
                allowed_ips: BTreeSet::new(),
            };
            let peers = BTreeMap::from([(key(SEGMENT), peer("location:eu")), (key(OTHER_PEER), peer("peer/phone"))]);
            let device = DevicePlan { up: true, listen_port: 1, peers };
            let names = BTreeMap::from([(key(SEGMENT), "location:eu (node a)".to_owned())]);
            let statistics: Vec<_> = [SEGMENT, OTHER_PEER]
                .map(|n| PeerStatistics {
                    key: key(n),
                    endpoint: format!("192.0.2.{n}:51820").parse().ok(),
                    last_handshake: handshakes.iter().find(|(who, _)| *who == n).map(|(_, at)| time(*at)),
                    rx_bytes: 0,
                    tx_bytes: 0,
                })
                .into();
            let now = Duration::from_secs(seconds);
            let news = self.contacts.update(&device, &names, &statistics, now, time(seconds));
            let text = |news| match news {
                News::Connected { with, at } => format!("+{with} at {at}"),
                News::Missing { of, at } => format!("-{of} at {at}"),
            };
            news.into_iter().map(text).collect()
        }
    }

    #[test]
    fn the_first_answer_and_a_silence_and_its_end_are_told_once() {
        let mut lab = Lab { contacts: Contacts::default(), keepalive: 10 };
        assert_eq!(lab.at(0, &[]), [""; 0]);
        assert!(lab.contacts.is_waiting());
        assert_eq!(
            lab.at(1, &[(SEGMENT, 1), (OTHER_PEER, 1)]),
            ["+location:eu (node a) at 192.0.2.1:51820", "+peer/phone at 192.0.2.2:51820"]
        );
        assert!(!lab.contacts.is_waiting());
        assert_eq!(lab.at(100, &[(SEGMENT, 1), (OTHER_PEER, 90)]), [""; 0]);
        // Who is no segment may be silent.
        assert_eq!(lab.at(182, &[(SEGMENT, 2), (OTHER_PEER, 1)]), ["-location:eu (node a) at 192.0.2.1:51820"]);
        assert_eq!(lab.at(183, &[(SEGMENT, 2)]), [""; 0]);
        assert_eq!(lab.at(200, &[(SEGMENT, 200)]), ["+location:eu (node a) at 192.0.2.1:51820"]);
    }

    #[test]
    fn a_first_answer_that_does_not_come_is_missed_if_it_was_asked_for() {
        let mut lab = Lab { contacts: Contacts::default(), keepalive: 10 };
        lab.at(0, &[]);
        assert_eq!(lab.at(9, &[]), [""; 0]);
        assert_eq!(lab.at(10, &[]), ["-location:eu (node a) at 192.0.2.1:51820"]);
        assert_eq!(lab.at(30, &[]), [""; 0]);
        let mut silent = Lab { contacts: Contacts::default(), keepalive: 0 };
        silent.at(0, &[]);
        assert_eq!(silent.at(100, &[]), [""; 0]);
        assert_eq!(silent.at(101, &[(SEGMENT, 101)]).len(), 1);
        assert_eq!(silent.at(500, &[(SEGMENT, 101)]), [""; 0]);
    }
}
