//! Goldens of what a person sees.

use super::*;
use crate::{
    reach::Unreachable,
    status::model::tests::{NOW, World},
};
use topology::{annotations, report::PeerReport};

const HEALTHY: &str = "\
granularity location, subnet 10.4.0.0/16; 2 locations; 3 nodes, 3 ready; 1 peer

LOCATION  NODE     STATE   WIREGUARD IP  ENDPOINT            MTU  AGENT            SEEN
oslo      oslo-1   leader  10.4.0.1      203.0.113.3:51820  1420  1.2.3 userspace    3s
paris     paris-1  leader  10.4.0.2      203.0.113.1:51820  1420  1.2.3 userspace    1s
paris     paris-2  ready   -             203.0.113.2:51820  1420  1.2.3 userspace    2s

FROM     TO              ENDPOINT IN USE     HANDSHAKE  RECEIVED   SENT     RTT
oslo-1   location:paris  198.51.100.1:51820        30s   1.2 MiB  999 B  1.2 ms
paris-1  location:oslo   198.51.100.3:51820        30s   1.2 MiB  999 B  1.2 ms
paris-1  peer/laptop     198.51.100.9:51820        30s   1.2 MiB  999 B  1.2 ms

PEER    ALLOWED IPS  ENDPOINT IN USE     HANDSHAKE     RTT
laptop  10.5.0.1/32  198.51.100.9:51820        30s  1.2 ms

All is as it should be.
";

#[test]
fn a_healthy_mesh() {
    assert_eq!(render(&World::healthy().status(), Extent::Glance, None), HEALTHY);
}

#[test]
fn agents_that_do_not_answer_and_nodes_that_are_left_out() {
    let mut world = World::healthy();
    let refused = "by the proxy to the node: refused; directly to 10.1.0.3:1107: no answer within 3 s";
    world.answers.insert("oslo-1".to_owned(), Err(Unreachable::NoWay(vec![refused.to_owned()])));
    world.answers.insert("paris-1".to_owned(), Err(Unreachable::Unknown("/status".to_owned())));
    world.annotate("paris-1", annotations::PERSISTENT_KEEPALIVE, Some("25"));
    world.annotate("paris-2", annotations::ENDPOINT, None);
    world.annotate("paris-2", annotations::LAST_SEEN, None);
    world.answers.remove("paris-2");
    let expected = "\
granularity location, subnet 10.4.0.0/16; 2 locations; 3 nodes, 2 ready; 1 peer

LOCATION  NODE     STATE     WIREGUARD IP  ENDPOINT                 MTU  AGENT             SEEN
oslo      oslo-1   leader    10.4.0.1      203.0.113.3:51820          -  no answer           3s
paris     paris-1  leader    10.4.0.2      203.0.113.1:51820 (NAT)    -  upstream or old     1s
paris     paris-2  LEFT OUT  -             -                          -  -                never

PEER    ALLOWED IPS  ENDPOINT IN USE  HANDSHAKE  RTT
laptop  10.5.0.1/32  -                        -    -

Not as it should be:
  node/paris-2: left out of the mesh: has no kilo.squat.ai/endpoint, has never checked in
    -> see that the agent (kg) runs on paris-2, and read its log
  node/oslo-1: its agent does not answer: by the proxy to the node: refused; directly to 10.1.0.3:1107: no answer within 3 s
    -> see that the agent (kg) runs there, open a way to it (--via), or leave agents out (--no-agents)
";
    assert_eq!(render(&world.status(), Extent::Glance, None), expected);
}

#[test]
fn tables_fit_the_terminal_and_are_whole_when_wide() {
    let status = World::healthy().status();
    for width in [40, 60, 80, 100] {
        let text = render(&status, Extent::Glance, Some(width));
        // The first line and the troubles are sentences: terminals wrap them.
        assert!(text.lines().skip(1).all(|line| line.chars().count() <= width), "{width}:\n{text}");
        assert!(text.contains("NODE") && text.contains("FROM"), "{text}");
    }
    let wide = render(&status, Extent::Wide, Some(40));
    assert!(wide.contains("INTERNAL IP") && wide.contains("10.42.2.0/24"), "{wide}");
}

#[test]
fn of_very_many_tunnels_only_the_dead_are_shown_at_a_glance() {
    let mut world = World::healthy();
    let report = world.report("paris-1");
    let one = report.peers[0].clone();
    report.peers = (0..200).map(|n| PeerReport { label: format!("node:n{n}"), ..one.clone() }).collect();
    report.peers[77].rtt_microseconds = None;
    report.peers[77].last_handshake = Some(NOW - 5000);
    report.peers[78].rtt_microseconds = Some(31_000);
    let status = world.status();
    let text = render(&status, Extent::Glance, None);
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("paris-1  node:")).collect();
    assert_eq!(rows.len(), 1, "{text}");
    assert!(rows[0].starts_with("paris-1  node:n77") && rows[0].contains("66m"), "{text}");
    let summary = "201 ends of tunnels, 1 dead, the slowest echo takes 31 ms; -o wide or the name of a node lists them";
    assert!(text.contains(summary), "{text}");
    assert_eq!(render(&status, Extent::Wide, None).matches("paris-1  node:").count(), 200);
}

#[test]
fn of_many_alike_troubles_the_first_are_shown() {
    let mut world = World::healthy();
    let sample = world.node("paris-2").clone();
    for n in 0..20 {
        let node = agent::cluster::NodeRecord { name: format!("new-{n:02}"), ..sample.clone() };
        world.nodes.push(node);
        world.annotate(&format!("new-{n:02}"), annotations::KEY, None);
    }
    let status = world.status();
    let text = render(&status, Extent::Glance, None);
    assert_eq!(text.matches("has no kilo.squat.ai/key").count(), MOST_TROUBLES, "{text}");
    assert!(text.contains("… and 12 more nodes that are left out; -o wide lists them"), "{text}");
    assert_eq!(render(&status, Extent::Wide, None).matches("has no kilo.squat.ai/key").count(), 20);
}

#[test]
fn what_agents_say_cannot_move_the_cursor() {
    let mut world = World::healthy();
    world.report("oslo-1").version = "\x1b[2J1".to_owned();
    world.report("oslo-1").idle = Some("\x1b]0;title\x07\nnode/paris-1: broken".to_owned());
    let text = render(&world.status(), Extent::Glance, None);
    assert!(!text.contains('\x1b') && !text.contains("\nnode/paris-1: broken"), "{text}");
}

#[test]
fn quantities_are_short() {
    for (seconds, expected) in [(-5, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")] {
        assert_eq!(age(seconds), expected);
    }
    for (number, expected) in [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (1_048_576, "1.0 MiB"),
        (u64::MAX, "16.0 EiB"),
    ] {
        assert_eq!(bytes(number), expected);
    }
    for (microseconds, expected) in [(99, "0.1 ms"), (1240, "1.2 ms"), (12_400, "12 ms"), (1_000_000, "1000 ms")] {
        assert_eq!(round_trip(microseconds), expected);
    }
}
