//! Probes with real sockets: what an agent sends, sees and concludes.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use agent::{
    http::LatestTopology,
    os::packets::set_option,
    probe::{ProbeError, Prober},
};
use serde_json::{Value, from_value};
use tokio::sync::watch;
use topology::{
    Granularity, Input, Node, PublicKey, Topology,
    probe::{
        Answer, Family, Knocked, Request, Sent, Sightings, Token, Watching,
        mark::{SEALED_PACKET, Ways},
        mtu::Measured,
    },
};

use crate::namespace::{inside, ip, run, wire};

fn token() -> Token {
    Token::from([7; 16])
}

/// A mesh of the own node `a` and of `b`, whose WireGuard is at `endpoint`.
fn mesh(endpoint: &str) -> LatestTopology {
    let node = |name: &str, n: u8, endpoint: &str| Node {
        name: name.into(),
        location: name.into(),
        endpoint: endpoint.parse().ok(),
        key: PublicKey::new([n; 32]).ok(),
        pod_cidrs: vec![format!("10.42.{n}.0/24").parse().unwrap(), format!("fd42:{n}::/64").parse().unwrap()],
        ..Node::default()
    };
    let nodes = [node("a", 1, "10.1.0.2:51820"), node("b", 2, endpoint)];
    let input = Input {
        nodes: nodes.iter().collect(),
        peers: vec![],
        granularity: Granularity::Full,
        subnets: &["10.4.0.0/16".parse().unwrap()],
    };
    watch::channel(Some(Arc::new(Topology::build(&input).unwrap()))).1
}

fn prober(endpoint: &str) -> Prober {
    Prober::new("a".into(), "kilo0".into(), mesh(endpoint))
}

async fn ask<T: serde::de::DeserializeOwned>(prober: &Prober, request: Request) -> T {
    let answer: Value = prober.probe(request).await.unwrap();
    from_value(answer).unwrap()
}

/// The node's interfaces: one outside, the tunnel's, and a bridge for pods. Nothing is at the other ends.
fn interfaces() {
    wire();
    ip("link add kilo0 type veth peer name far0");
    ip("addr add 10.4.0.1/16 dev kilo0");
    ip("link set kilo0 up");
    ip("link set far0 up");
    ip("link add kube-bridge type bridge");
    ip("addr add 10.42.1.1/24 dev kube-bridge");
    ip("link set kube-bridge up");
    for link in ["eth0", "kilo0"] {
        ip(&format!("neigh add 10.9.9.9 lladdr 02:00:00:00:00:01 dev {link}"));
        ip(&format!("neigh add fd09::9 lladdr 02:00:00:00:00:01 dev {link}"));
    }
}

/// Sends what is for the other node's pods to `link`.
fn route_pods(link: &str) {
    ip(&format!("route replace 10.42.2.0/24 via 10.9.9.9 dev {link} onlink"));
    ip(&format!("-6 route replace fd42:2::/64 via fd09::9 dev {link} onlink"));
}

async fn experiment(prober: &Prober, family: Family) -> (Watching, Sent, Sightings) {
    let watching = ask(prober, Request::Watch { node: "b".into(), token: token() }).await;
    let sent = ask(prober, Request::Send { node: "b".into(), token: token(), family }).await;
    (watching, sent, ask(prober, Request::Count { token: token() }).await)
}

#[test]
fn a_watch_tells_the_tunnel_from_what_is_around_it() {
    inside(|_| async {
        interfaces();
        let prober = prober("192.0.2.2:51820");
        route_pods("kilo0");
        let (watching, sent, seen) = experiment(&prober, Family::Ipv4).await;
        assert_eq!(watching.interfaces, ["eth0"]);
        assert_eq!((sent.from.to_string(), sent.to.to_string()), ("10.42.1.1".to_owned(), "10.42.2.1".to_owned()));
        assert_eq!(sent.datagrams, 20);
        assert_eq!((seen.tunnel, seen.readable), (Ways { sent: 20, received: 0 }, Ways::default()));

        // An address that is no interface's.
        let (_, sent, seen) = experiment(&prober, Family::Ipv6).await;
        assert_eq!((sent.from.to_string(), sent.datagrams), ("fd42:1::1".to_owned(), 20));
        assert_eq!((seen.tunnel.sent, seen.readable.sent), (20, 0));

        route_pods("eth0");
        for family in [Family::Ipv4, Family::Ipv6] {
            let (_, _, seen) = experiment(&prober, family).await;
            assert_eq!((seen.tunnel, seen.readable), (Ways::default(), Ways { sent: 20, received: 0 }), "{family}");
        }
    });
}

#[test]
fn sealed_datagrams_are_counted_and_the_bulk_is_not_even_looked_at() {
    inside(|_| async {
        interfaces();
        ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:01 dev eth0");
        ip("neigh add fd01::9 lladdr 02:00:00:00:00:01 dev eth0");
        let prober = prober("192.0.2.2:51820");
        let _: Watching = ask(&prober, Request::Watch { node: "b".into(), token: token() }).await;
        for (own, to) in [("10.1.0.2:51820", "10.1.0.9:4500"), ("[fd01::2]:51820", "[fd01::9]:4500")] {
            let socket = UdpSocket::bind(own).unwrap();
            let mut message = vec![0; 1200];
            message[0] = 4;
            for _ in 0..1000 {
                socket.send_to(&message, to).unwrap();
            }
            for _ in 0..5 {
                socket.send_to(&message[..SEALED_PACKET], to).unwrap();
            }
            // Three of them and a keepalive as one, to be cut by the kernel.
            let mut run = message[..SEALED_PACKET].repeat(3);
            run.extend(&message[..32]);
            set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, SEALED_PACKET as libc::c_int).unwrap();
            socket.send_to(&run, to).unwrap();
            // Another port's are somebody else's.
            let other = UdpSocket::bind((socket.local_addr().unwrap().ip(), 0)).unwrap();
            other.send_to(&message[..SEALED_PACKET], to).unwrap();
        }
        let seen: Sightings = ask(&prober, Request::Count { token: token() }).await;
        assert_eq!(seen.sealed, Ways { sent: 16, received: 0 });
        assert!(seen.packets < 1000, "{seen:?}");
        assert_eq!(seen.missed, 0);
    });
}

#[test]
fn a_watch_belongs_to_whoever_has_its_token() {
    inside(|_| async {
        interfaces();
        let prober = prober("192.0.2.2:51820");
        let watch = |n| Request::Watch { node: "b".into(), token: Token::from([n; 16]) };
        let count = |n| Request::Count { token: Token::from([n; 16]) };
        prober.probe(watch(1)).await.unwrap();
        assert!(matches!(prober.probe(watch(2)).await, Err(ProbeError::Busy)));
        assert!(matches!(prober.probe(count(2)).await, Err(ProbeError::NoWatch(_))));
        prober.probe(count(1)).await.unwrap();
        assert!(matches!(prober.probe(count(1)).await, Err(ProbeError::NoWatch(_))));
        prober.probe(watch(2)).await.unwrap();
    });
}

#[test]
fn a_knock_is_answered_refused_or_not_deliverable() {
    inside(|_| async {
        interfaces();
        let knock = async |endpoint: &str| -> Knocked {
            ask(&prober(endpoint), Request::Knock { node: "b".into(), token: token() }).await
        };
        let closed = knock("10.1.0.2:51820").await;
        assert_eq!((closed.answer, closed.tunnel), (Answer::Refused, false));
        // From here on the other segment's address inside the tunnel answers.
        ip("addr add 10.4.0.2/32 dev lo");
        assert!(knock("10.1.0.2:51820").await.tunnel);
        assert_eq!(closed.endpoint, "10.1.0.2:51820".parse().ok());
        assert_eq!(knock("[fd01::2]:51820").await.answer, Answer::Refused);
        let socket = UdpSocket::bind("10.1.0.2:51820").unwrap();
        assert_eq!(knock("10.1.0.2:51820").await.answer, Answer::Silent);
        let mut datagram = [0; 100];
        let length = socket.recv(&mut datagram).unwrap();
        assert_eq!(datagram[..length], token().knock(&"a".into()));
        ip("route add prohibit 192.0.2.7");
        for nowhere in ["192.0.2.7:51820", "198.51.100.1:51820"] {
            assert_eq!(knock(nowhere).await.answer, Answer::Unreachable, "{nowhere}");
        }
        let unknown = knock("no-such-host.invalid:51820").await;
        assert_eq!((unknown.endpoint, unknown.answer), (None, Answer::Silent));
    });
}

#[test]
fn the_largest_packet_that_passes_is_found() {
    inside(|_| async {
        interfaces();
        ip("link set kilo0 mtu 1420");
        ip("addr add 10.4.0.2/32 dev lo");
        let prober = prober("192.0.2.2:51820");
        let measure = async || -> Measured { ask(&prober, Request::Mtu { node: "b".into() }).await };
        assert_eq!(measure().await, Measured { mtu: 1420, largest: Some(1420) });
        run("nft add table ip hole");
        run("nft add chain ip hole in { type filter hook input priority 0 ; }");
        run("nft add rule ip hole in ip length > 1233 drop");
        assert_eq!(measure().await, Measured { mtu: 1420, largest: Some(1232) });
        run("nft add rule ip hole in drop");
        assert_eq!(measure().await, Measured { mtu: 1420, largest: None });
    });
}

#[test]
fn too_many_requests_are_refused() {
    inside(|_| async {
        let prober = prober("192.0.2.2:51820");
        let mtu = || prober.probe(Request::Mtu { node: "c".into() });
        let mut asked = 0;
        while !matches!(mtu().await, Err(ProbeError::Busy)) {
            asked += 1;
            assert!(asked < 100);
        }
        // The test's deadline ends the wait.
        while matches!(mtu().await, Err(ProbeError::Busy)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
