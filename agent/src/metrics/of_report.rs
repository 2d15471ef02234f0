//! Metrics of what an agent tells of itself: made anew from its report at each scrape, so that the series of a
//! peer that is gone go with it.

use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use topology::{
    health::Check,
    label::shorten,
    report::{Backend, Batch, PeerReport, Report},
};

/// As long as the longest name of an object (RFC 1123 subdomain); a location may be called anything.
const LONGEST_LABEL: usize = 253;

type Labels = [(&'static str, String); 1];
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;
type Fraction = Gauge<f64, AtomicU64>;

/// The metrics of `report`, whose statistics are of this moment, and of what was found by its `checks`.
pub(super) fn registry(report: &Report, checks: &[Check]) -> Registry {
    let mut registry = Registry::default();
    device(&mut registry, report);
    let help = "When the plan was last applied to the host, Unix time; 0 means never";
    registry.register_with_unit("kilo_applied_timestamp", help, Unit::Seconds, gauge(report.applied.unwrap_or(0)));
    watch(&mut registry, report);
    let ready = Gauges::default();
    for Check { name, problem } in checks {
        ready.get_or_create(&[("check", (*name).to_owned())]).set(problem.is_none().into());
    }
    registry.register("kilo_ready", "Whether that which /readyz looks at is well", ready);
    let drops = Counters::default();
    for (cause, count) in &report.drops {
        drops.get_or_create(&[("cause", cause.clone())]).inc_by(*count);
    }
    let help = "Packets that WireGuard in userspace dropped, by cause; the kernel does not tell";
    registry.register("kilo_dropped_packets", help, drops);
    batches(&mut registry, &report.batches);
    peers(&mut registry, &report.peers);
    registry
}

fn device(registry: &mut Registry, report: &Report) {
    let backend = report.backend.filter(|backend| *backend != Backend::Unknown);
    let backend = backend.map_or_else(|| "none".to_owned(), |backend| backend.to_string());
    let labels = [("interface", report.interface.to_string()), ("backend", backend)];
    registry.register("kilo_device", "The WireGuard interface and who moves its packets", Info::new(labels));
}

fn watch(registry: &mut Registry, report: &Report) {
    let help = "When a check-in of this node last came back through the watch, Unix time; 0 means never";
    let heard = gauge(report.watch.heard.unwrap_or(0));
    registry.register_with_unit("kilo_watch_heard_timestamp", help, Unit::Seconds, heard);
    if let Some(lag) = report.watch.lag_milliseconds {
        let help = "From the writing of the last check-in that came back through the watch until it did";
        let lag = fraction(Duration::from_millis(lag));
        registry.register_with_unit("kilo_watch_lag", help, Unit::Seconds, lag);
    }
}

fn batches(registry: &mut Registry, batches: &BTreeMap<String, Batch>) {
    let (calls, packets) = (Counters::default(), Counters::default());
    for (call, batch) in batches {
        let labels = [("call", call.clone())];
        calls.get_or_create(&labels).inc_by(batch.calls);
        packets.get_or_create(&labels).inc_by(batch.packets);
    }
    let help = "System calls by which WireGuard in userspace moved packets";
    registry.register("kilo_data_path_calls", help, calls);
    let help = "Packets and datagrams that these calls moved, those of a joined one each";
    registry.register("kilo_data_path_packets", help, packets);
}

fn peers(registry: &mut Registry, peers: &[PeerReport]) {
    let (handshakes, round_trips) = (Gauges::default(), Family::<Labels, Fraction>::default());
    let (received, sent, moves) = (Counters::default(), Counters::default(), Counters::default());
    for peer in peers {
        let labels = [("peer", shorten(&peer.label, LONGEST_LABEL, '…'))];
        handshakes.get_or_create(&labels).set(peer.last_handshake.unwrap_or(0));
        received.get_or_create(&labels).inc_by(peer.rx_bytes);
        sent.get_or_create(&labels).inc_by(peer.tx_bytes);
        moves.get_or_create(&labels).inc_by(peer.endpoint_changes);
        if let Some(rtt) = peer.rtt_microseconds {
            round_trips.get_or_create(&labels).set(Duration::from_micros(rtt).as_secs_f64());
        }
    }
    let help = "When the last handshake with the peer was completed, Unix time; 0 means never";
    registry.register_with_unit("kilo_peer_last_handshake_timestamp", help, Unit::Seconds, handshakes);
    let help = "Received from the peer, since the interface was made";
    registry.register_with_unit("kilo_peer_received", help, Unit::Bytes, received);
    registry.register_with_unit("kilo_peer_sent", "Sent to the peer, since the interface was made", Unit::Bytes, sent);
    let help = "How often the peer was seen at another endpoint than before";
    registry.register("kilo_peer_endpoint_changes", help, moves);
    let help = "How long an echo through the tunnel took; not there while none comes back";
    registry.register_with_unit("kilo_peer_rtt", help, Unit::Seconds, round_trips);
}

fn gauge(value: i64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

fn fraction(time: Duration) -> Fraction {
    let gauge = Fraction::default();
    gauge.set(time.as_secs_f64());
    gauge
}
