//! The order of steps, and what failures leave to be done.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use topology::{
    DevicePeer, MAIN_TABLE, PublicKey, Route, Rule, Seconds, Tunnel, TunnelKind, resume::Identity, tunnel::Mac,
};

use super::*;
use crate::testing::Fake;

fn key(n: u8) -> PublicKey {
    PublicKey::new([n; 32]).unwrap()
}

fn peer(label: &str) -> DevicePeer {
    DevicePeer {
        label: label.to_owned(),
        preshared_key: None,
        endpoint: None,
        persistent_keepalive: Seconds(0),
        allowed_ips: BTreeSet::new(),
    }
}

fn leader() -> Plan {
    let route =
        Route { dst: "10.42.2.0/24".parse().unwrap(), via: None, dev: "kilo0".into(), src: None, table: MAIN_TABLE };
    Plan {
        leader: true,
        device: DevicePlan {
            up: true,
            listen_port: 51820,
            peers: BTreeMap::from([(key(1), peer("a")), (key(2), peer("b"))]),
        },
        addresses: ["10.4.0.1/16".parse().unwrap()].into(),
        routes: [route].into(),
        ..Plan::default()
    }
}

fn member() -> Plan {
    Plan { device: DevicePlan { up: false, listen_port: 51820, peers: BTreeMap::new() }, ..Plan::default() }
}

fn tunnel() -> Tunnel {
    Tunnel {
        kind: TunnelKind::Vxlan,
        interface: TunnelKind::Vxlan.interface(),
        borrowed: false,
        local: "10.1.0.2".parse().unwrap(),
        mac: Mac([2; 6]),
        addresses: BTreeSet::new(),
        neighbours: BTreeSet::new(),
        forwarding: BTreeSet::new(),
    }
}

struct Lab {
    fake: Fake,
    applier: Applier<Fake>,
}

impl Lab {
    fn new() -> Self {
        let fake = Fake::default();
        Self { applier: Applier::new(fake.clone(), Box::new(fake.clone()), "kilo0".into()), fake }
    }

    async fn apply(&mut self, plan: &Plan) -> (Vec<Failure>, Vec<String>) {
        let interfaces = self.fake.world().facts.interfaces.clone();
        let mut failures = Vec::from_iter(self.applier.ensure_device(1420, &interfaces).await);
        failures.extend(self.applier.apply(plan, Mtus { device: 1420, tunnel: 1450 }).await);
        (failures, self.fake.take_calls())
    }

    /// Where the device sends what is for the first peer.
    fn endpoint(&self) -> Option<SocketAddr> {
        self.fake.world().device.as_ref().unwrap().peers[&key(1)].endpoint
    }
}

#[tokio::test]
async fn routes_come_last_to_a_new_leader_and_go_first_from_an_old_one() {
    let mut lab = Lab::new();
    let (failures, calls) = lab.apply(&leader()).await;
    assert_eq!(failures, []);
    assert_eq!(calls, ["create", "firewall", "device -0 +a +b", "addresses", "link up", "routes"]);
    assert_eq!(lab.apply(&leader()).await, (vec![], vec![]), "nothing is left to do");
    let (_, calls) = lab.apply(&member()).await;
    assert_eq!(calls, ["routes", "link down", "addresses", "device -2 +"]);
}

#[tokio::test]
async fn the_tunnel_is_guarded_before_it_is_there_and_there_before_routes_lead_to_it() {
    let mut lab = Lab::new();
    lab.apply(&member()).await;
    let mut plan = Plan { routes: leader().routes, ..member() };
    plan.firewall.clamp.insert("kilo-vxlan".into());
    plan.forwarded.insert("10.42.1.0/24".parse().unwrap());
    plan.tunnel = Some(tunnel());
    assert_eq!(lab.apply(&plan).await, (vec![], ["firewall", "tunnel", "routes"].map(str::to_owned).to_vec()));
    assert_eq!(lab.fake.world().tunnel.as_ref().map(|(_, mtu)| *mtu), Some(1450));
    assert_eq!(lab.fake.world().forwarded, Some(plan.forwarded.clone()));
    assert_eq!(lab.apply(&member()).await.1, ["firewall", "routes", "tunnel"]);
    lab.apply(&plan).await;
    lab.applier.clean_up(false).await;
    let world = lab.fake.world();
    assert_eq!((&world.tunnel, &world.forwarded, &world.firewall), (&None, &None, &None));
}

#[tokio::test]
async fn what_failed_is_tried_again_and_stops_nothing_else() {
    let mut lab = Lab::new();
    lab.fake.world().refused.insert(key(1));
    lab.fake.world().routes_fail = true;
    let (failures, calls) = lab.apply(&leader()).await;
    assert_eq!(failures.iter().map(|failure| failure.doing).collect::<Vec<_>>(), ["device", "routes"]);
    assert_eq!(calls, ["create", "firewall", "device -0 +b", "addresses", "link up"]);
    lab.fake.world().refused.clear();
    lab.fake.world().routes_fail = false;
    assert_eq!(lab.apply(&leader()).await, (vec![], vec!["device -0 +a".to_owned(), "routes".to_owned()]));
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_tried_again_and_the_peers_are_set_meanwhile() {
    let mut lab = Lab::new();
    lab.fake.world().port_taken = true;
    let (failures, calls) = lab.apply(&leader()).await;
    assert!(matches!(&failures[..], [Failure { doing: "port", error }] if error.contains("51820")), "{failures:?}");
    assert!(calls.contains(&"device -0 +a +b".to_owned()), "{calls:?}");
    assert_eq!(lab.apply(&leader()).await.0, failures);
    lab.fake.world().port_taken = false;
    assert_eq!(lab.apply(&leader()).await, (vec![], vec!["device -0 +".to_owned()]));
    assert_eq!(lab.fake.world().device.as_ref().unwrap().listen_port, 51820);
}

#[tokio::test]
async fn a_peer_that_could_not_be_set_is_still_removed_later() {
    let mut lab = Lab::new();
    lab.apply(&leader()).await;
    lab.fake.world().refused.insert(key(1));
    let mut plan = leader();
    plan.device.peers.insert(key(1), peer("changed"));
    lab.apply(&plan).await;
    plan.device.peers.remove(&key(1));
    lab.apply(&plan).await;
    assert_eq!(lab.fake.world().device.as_ref().unwrap().peers.keys().copied().collect::<Vec<_>>(), [key(2)]);
}

#[tokio::test]
async fn an_endpoint_is_told_only_when_it_is_another_one() {
    let mut lab = Lab::new();
    let mut plan = leader();
    let told = "192.0.2.1:1".parse().ok();
    plan.device.peers.insert(key(1), DevicePeer { endpoint: told, ..peer("a") });
    lab.apply(&plan).await;
    assert_eq!(lab.endpoint(), told);
    let roamed = "192.0.2.9:9".parse().ok();
    lab.fake.world().device.as_mut().unwrap().peers.get_mut(&key(1)).unwrap().endpoint = roamed;
    plan.device.peers.insert(key(1), DevicePeer { endpoint: told, ..peer("renamed") });
    assert_eq!(lab.apply(&plan).await.1, ["device -0 +renamed"]);
    assert_eq!(lab.endpoint(), roamed, "the device keeps what it knows");
    let other = "192.0.2.2:1".parse().ok();
    plan.device.peers.insert(key(1), DevicePeer { endpoint: other, ..peer("renamed") });
    lab.apply(&plan).await;
    assert_eq!(lab.endpoint(), other);
}

#[tokio::test]
async fn a_device_that_outlived_the_last_agent_keeps_its_peers_but_for_those_that_nobody_wants() {
    let mut lab = Lab::new();
    let seen = DevicePeer { endpoint: "192.0.2.1:1".parse().ok(), ..peer("") };
    let peers = BTreeMap::from([(key(1), seen.clone()), (key(9), peer(""))]);
    lab.fake.world().left_behind = Some(DevicePlan { up: false, listen_port: 51820, peers });
    lab.fake.world().facts.interfaces.insert("kilo0".into(), crate::host::Interface::default());
    let mut plan = leader();
    plan.device.peers.insert(key(1), DevicePeer { label: "a".to_owned(), ..seen.clone() });
    let (failures, calls) = lab.apply(&plan).await;
    assert_eq!(failures, []);
    assert_eq!(calls, ["take", "firewall", "device -1 +a +b", "addresses", "link up", "mtu 1420", "routes"]);
    assert_eq!(lab.endpoint(), seen.endpoint);
    assert_eq!(lab.apply(&plan).await, (vec![], vec![]));
}

#[tokio::test]
async fn peers_that_others_removed_come_back_and_those_they_added_go() {
    let mut lab = Lab::new();
    lab.apply(&leader()).await;
    {
        let mut world = lab.fake.world();
        let peers = &mut world.device.as_mut().unwrap().peers;
        peers.remove(&key(1));
        peers.insert(key(9), peer("somebody's"));
    }
    assert_eq!(lab.applier.statistics().await.unwrap().len(), 2);
    assert_eq!(lab.apply(&leader()).await, (vec![], vec!["device -1 +a".to_owned()]));
    lab.applier.statistics().await.unwrap();
    assert_eq!(lab.apply(&leader()).await, (vec![], vec![]));
}

#[tokio::test]
async fn an_interface_that_someone_removed_is_made_again_with_everything() {
    let mut lab = Lab::new();
    lab.apply(&leader()).await;
    {
        let mut world = lab.fake.world();
        world.facts.interfaces.clear();
        world.device = None;
        world.routes.clear();
    }
    let (failures, calls) = lab.apply(&leader()).await;
    assert_eq!(failures, []);
    assert_eq!(calls, ["create", "device -0 +a +b", "addresses", "link up", "routes"]);
}

#[tokio::test]
async fn another_interface_of_the_same_name_is_another_device() {
    let mut lab = Lab::new();
    lab.apply(&leader()).await;
    {
        let mut world = lab.fake.world();
        world.facts.interfaces.insert("kilo0".into(), crate::host::Interface { index: 77, ..Default::default() });
        world.left_behind = Some(DevicePlan::default());
    }
    let (failures, calls) = lab.apply(&leader()).await;
    assert_eq!((failures, calls), (vec![], vec!["take".to_owned(), "device -0 +a +b".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_strangers_interface_is_left_alone_and_the_rest_is_done() {
    let mut lab = Lab::new();
    lab.fake.world().facts.interfaces.insert("kilo0".into(), crate::host::Interface::default());
    let mut plan = leader();
    let local =
        Route { dev: "eth0".into(), dst: "10.42.3.0/24".parse().unwrap(), ..plan.routes.first().unwrap().clone() };
    plan.routes.insert(local.clone());
    let (failures, calls) = lab.apply(&plan).await;
    assert_eq!(calls, ["firewall", "routes"]);
    assert_eq!(lab.fake.world().routes, [local].into());
    assert!(
        matches!(&failures[..], [Failure { doing: "device", error }] if error.contains("--interface")),
        "{failures:?}"
    );
    lab.fake.world().facts.interfaces.clear();
    tokio::time::sleep_until(lab.applier.retry_at().unwrap()).await;
    let (failures, calls) = lab.apply(&plan).await;
    assert_eq!((failures, lab.applier.retry_at()), (vec![], None));
    assert_eq!(calls, ["create", "device -0 +a +b", "addresses", "link up", "routes"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_be_made_is_a_failure_also_before_it_is_tried_again() {
    let mut lab = Lab::new();
    lab.fake.world().no_device = true;
    let (failures, calls) = lab.apply(&leader()).await;
    assert_eq!((failures.len(), calls), (1, vec!["create fails".to_owned(), "firewall".to_owned()]));
    assert_eq!(lab.apply(&leader()).await, (failures, vec![]));
    tokio::time::sleep_until(lab.applier.retry_at().unwrap()).await;
    assert_eq!(lab.apply(&leader()).await.1, ["create fails"]);
}

#[tokio::test]
async fn the_interface_is_deleted_if_that_is_asked_for_or_nobody_moves_its_packets_any_more() {
    for (in_kernel, delete_interface) in [(true, true), (false, true), (false, false)] {
        let mut lab = Lab::new();
        lab.fake.world().in_kernel = in_kernel;
        lab.apply(&leader()).await;
        lab.fake.take_calls();
        assert_eq!(lab.applier.clean_up(delete_interface).await, []);
        assert_eq!(lab.fake.take_calls(), ["link down", "routes", "firewall", "delete"]);
    }
}

#[tokio::test]
async fn cleaning_up_leaves_nothing_but_what_may_outlive_the_agent() {
    let mut lab = Lab::new();
    lab.fake.world().in_kernel = true;
    lab.apply(&leader()).await;
    assert_eq!(lab.applier.clean_up(false).await, []);
    assert_eq!(lab.applier.statistics().await, Ok(vec![]));
    let world = lab.fake.world();
    assert!(world.routes.is_empty() && world.rules.is_empty() && world.firewall.is_none());
    assert!(!world.calls.contains(&"delete".to_owned()));
}

/// The whole of it: nothing leaves the tunnel once a step of the way behind it is gone.
#[tokio::test]
async fn cleaning_up_has_an_order() {
    let mut lab = Lab::new();
    let mut plan = leader();
    plan.rules =
        [Rule { from: None, to: "10.42.0.0/16".parse().unwrap(), iif: None, unless_mark: None, table: 7 }].into();
    plan.tunnel = Some(tunnel());
    lab.apply(&plan).await;
    lab.fake.world().remembered = Some(last(&plan, &[]));
    lab.fake.take_calls();
    assert_eq!(lab.applier.clean_up(true).await, []);
    assert_eq!(lab.fake.take_calls(), ["forget", "link down", "routes", "rules", "tunnel", "firewall", "delete"]);
}

fn last(plan: &Plan, known: &[PeerStatistics]) -> LastPlan {
    let identity = Identity { node: "a".into(), key: key(9), subnets: vec![] };
    LastPlan::new(identity, 1380, 1430, Arc::new(plan.clone()), known)
}

impl Lab {
    async fn resume(&mut self, last: &LastPlan) -> Vec<String> {
        let interfaces = self.fake.world().facts.interfaces.clone();
        assert_eq!(self.applier.resume(last, &interfaces).await, []);
        self.fake.take_calls()
    }
}

#[tokio::test]
async fn the_last_plan_is_resumed_and_then_changed_by_what_differs() {
    let mut lab = Lab::new();
    let mut plan = leader();
    plan.device.peers.get_mut(&key(1)).unwrap().endpoint = "192.0.2.1:1".parse().ok();
    let seen = PeerStatistics {
        key: key(1),
        endpoint: "192.0.2.9:9".parse().ok(),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
    };
    let calls = lab.resume(&last(&plan, &[seen])).await;
    assert_eq!(
        calls,
        ["create", "firewall", "device -0 +a +b", "addresses", "link up", "routes", "initiate handshakes"],
        "as after a reboot"
    );
    let endpoint = |lab: &Lab| lab.fake.world().device.as_ref().unwrap().peers[&key(1)].endpoint;
    assert_eq!((endpoint(&lab), lab.fake.world().mtu), ("192.0.2.9:9".parse().ok(), 1380));
    plan.device.peers.remove(&key(2));
    let (failures, calls) = lab.apply(&plan).await;
    assert_eq!(failures, []);
    assert_eq!(calls, ["device -1 +", "mtu 1420"], "neither a new device nor another endpoint");
    assert_eq!(endpoint(&lab), "192.0.2.9:9".parse().ok());
}

#[tokio::test]
async fn what_outlived_the_last_agent_is_not_touched_when_its_plan_is_resumed() {
    let mut lab = Lab::new();
    let plan = leader();
    {
        let mut world = lab.fake.world();
        (world.up, world.mtu) = (true, 1380);
        (world.addresses, world.routes) = (plan.addresses.clone(), plan.routes.clone());
        world.left_behind = Some(DevicePlan::default());
    }
    assert_eq!(lab.resume(&last(&plan, &[])).await, ["take", "device -0 +a +b", "initiate handshakes"], "in userspace");
    let mut lab = Lab::new();
    lab.fake.world().left_behind = Some(plan.device.clone());
    assert_eq!(lab.resume(&last(&plan, &[])).await, ["take"], "in the kernel, which has newer endpoints and sessions");
}

#[tokio::test]
async fn after_a_reboot_the_tunnel_and_its_guard_come_back_too() {
    let mut lab = Lab::new();
    let plan = Plan { tunnel: Some(tunnel()), ..member() };
    assert_eq!(lab.resume(&last(&plan, &[])).await[..3], ["create", "firewall", "tunnel"]);
    assert_eq!(lab.fake.world().tunnel, Some((tunnel(), 1430)));
}

/// In each case what is resumed again is only what failed, and nobody is called twice.
#[tokio::test]
async fn what_could_not_be_resumed_is_tried_again() {
    for outlived in [false, true] {
        let mut lab = Lab::new();
        lab.fake.world().left_behind = outlived.then(DevicePlan::default);
        lab.fake.world().port_taken = true;
        lab.fake.world().refused.insert(key(1));
        let seen = PeerStatistics {
            key: key(2),
            endpoint: "192.0.2.9:9".parse().ok(),
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let last = last(&leader(), &[seen]);
        let failures = lab.applier.resume(&last, &BTreeMap::new()).await;
        assert_eq!(failures.iter().map(|failure| failure.doing).collect::<Vec<_>>(), ["port", "device"]);
        lab.fake.take_calls();
        lab.fake.world().port_taken = false;
        lab.fake.world().refused.clear();
        assert_eq!(lab.resume(&last).await, ["device -0 +a"]);
        assert_eq!(lab.resume(&last).await, [] as [&str; 0]);
        let world = lab.fake.world();
        let device = world.device.as_ref().unwrap();
        assert_eq!((device.listen_port, device.peers[&key(2)].endpoint), (51820, "192.0.2.9:9".parse().ok()));
    }
}

/// A run that ends before it had a device removes that of an earlier one, as it would its own.
#[tokio::test]
async fn what_an_earlier_run_left_is_cleaned_up_by_one_that_had_no_device() {
    for (in_kernel, delete_interface, calls) in [
        (false, false, ["take", "link down", "delete"].as_slice()),
        (true, true, &["take", "link down", "delete"]),
        (true, false, &["take", "link down"]),
    ] {
        let mut lab = Lab::new();
        {
            let mut world = lab.fake.world();
            (world.in_kernel, world.up, world.mtu) = (in_kernel, true, 1380);
            world.left_behind = Some(DevicePlan::default());
            let interface = crate::host::Interface { index: 7, addresses: vec![], mtu: 1380 };
            world.facts.interfaces.insert("kilo0".into(), interface);
        }
        assert_eq!(lab.applier.clean_up(delete_interface).await, []);
        assert_eq!(lab.fake.take_calls(), calls);
    }
    let mut lab = Lab::new();
    lab.fake.world().facts.interfaces.insert("kilo0".into(), crate::host::Interface::default());
    assert_eq!(lab.applier.clean_up(true).await, [], "somebody else's");
    assert!(lab.fake.world().facts.interfaces.contains_key(&InterfaceName::from("kilo0")));
    assert_eq!(lab.fake.take_calls(), [] as [&str; 0]);
}
