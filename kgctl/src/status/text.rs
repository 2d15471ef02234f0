//! A status as text for a terminal.

use std::fmt::Write as _;

use topology::label::printable;

use super::{
    model::{AgentStatus, Kind, NodeStatus, Part, PeerStatus, Status, Trouble, Tunnel},
    table::{Column, table},
};

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What a person can take in.
    Glance,
    /// Everything.
    Wide,
}

/// More tunnels than these are not shown at a glance, but for those that are dead.
const MOST_TUNNELS: usize = 40;

/// More troubles of one kind than these are not shown at a glance.
const MOST_TROUBLES: usize = 8;

/// What stands where there is nothing.
const NOTHING: &str = "-";

/// `status` as text, in lines no longer than `width` where that can be.
pub fn render(status: &Status, extent: Extent, width: Option<usize>) -> String {
    let width = width.filter(|_| extent == Extent::Glance);
    let parts = [
        summary(status) + "\n",
        nodes(status, extent, width),
        tunnels(status, extent, width),
        peers(status, width),
        troubles(&status.troubles, extent),
    ];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn summary(status: &Status) -> String {
    let ready = status.nodes.iter().filter(|node| node.part != Part::LeftOut).count();
    let mut parts = Vec::new();
    if let Some(granularity) = &status.granularity {
        let subnets: Vec<_> = status.subnets.iter().map(ToString::to_string).collect();
        parts.push(format!("granularity {granularity}, subnet {}", subnets.join(", ")));
    }
    parts.push(count(status.locations(), "location"));
    parts.push(format!("{}, {ready} ready", count(status.nodes.len(), "node")));
    if !status.peers.is_empty() {
        parts.push(count(status.peers.len(), "peer"));
    }
    parts.join("; ")
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn nodes(status: &Status, extent: Extent, width: Option<usize>) -> String {
    const COLUMNS: [Column; 10] = [
        Column::text("LOCATION", 2),
        Column::text("NODE", 0),
        Column::text("STATE", 1),
        Column::text("WIREGUARD IP", 6),
        Column::text("ENDPOINT", 5),
        Column::number("MTU", 7),
        Column::text("AGENT", 4),
        Column::number("SEEN", 3),
        Column::text("INTERNAL IP", 8),
        Column::text("POD CIDR", 9),
    ];
    let row = |node: &NodeStatus| {
        let wide = |text: String| if extent == Extent::Wide { text } else { String::new() };
        [
            or_nothing(printable(&node.location)),
            printable(node.name.as_str()),
            state(node).to_owned(),
            or_nothing(joined(&node.wireguard_ips)),
            endpoint(node),
            node.report().and_then(|report| report.mtu).map_or_else(|| NOTHING.to_owned(), |mtu| mtu.to_string()),
            agent(&node.agent),
            if node.last_seen == 0 { "never".to_owned() } else { age(status.time - node.last_seen) },
            wide(joined(&node.internal_ips)),
            wide(joined(&node.pod_cidrs)),
        ]
    };
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { table(&COLUMNS, &rows, width) }
}

fn state(node: &NodeStatus) -> &'static str {
    match node.part {
        Part::Leader => "leader",
        Part::Member => "ready",
        Part::LeftOut => "LEFT OUT",
    }
}

fn endpoint(node: &NodeStatus) -> String {
    let endpoint = node.endpoint.as_deref().map_or_else(|| NOTHING.to_owned(), printable);
    if node.behind_nat { endpoint + " (NAT)" } else { endpoint }
}

fn agent(agent: &AgentStatus) -> String {
    match agent {
        AgentStatus::Answered { report } => {
            let backend = match report.backend {
                Some(backend) => format!(" {backend}"),
                None => String::new(),
            };
            printable(&report.version) + &backend
        }
        AgentStatus::Foreign { .. } => "upstream or old".to_owned(),
        AgentStatus::Unreachable { .. } => "no answer".to_owned(),
        AgentStatus::NotAsked => NOTHING.to_owned(),
    }
}

fn tunnels(status: &Status, extent: Extent, width: Option<usize>) -> String {
    const COLUMNS: [Column; 7] = [
        Column::text("FROM", 0),
        Column::text("TO", 1),
        Column::text("ENDPOINT IN USE", 4),
        Column::number("HANDSHAKE", 2),
        Column::number("RECEIVED", 5),
        Column::number("SENT", 6),
        Column::number("RTT", 3),
    ];
    let all: Vec<Tunnel<'_>> = status.tunnels().collect();
    let dead = || all.iter().filter(|tunnel| tunnel.is_dead());
    let is_too_much = extent == Extent::Glance && all.len() > MOST_TUNNELS;
    let shown: Vec<_> = if is_too_much { dead().take(MOST_TUNNELS).collect() } else { all.iter().collect() };
    let row = |tunnel: &Tunnel<'_>| {
        let peer = tunnel.peer;
        [
            printable(tunnel.from.as_str()),
            printable(&peer.label),
            peer.endpoint.map_or_else(|| NOTHING.to_owned(), |at| at.to_string()),
            tunnel.handshake_age().map_or_else(|| "never".to_owned(), age),
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
            peer.rtt_microseconds.map_or_else(|| NOTHING.to_owned(), round_trip),
        ]
    };
    let rows: Vec<_> = shown.into_iter().map(row).collect();
    let mut text = if rows.is_empty() { String::new() } else { table(&COLUMNS, &rows, width) };
    if is_too_much {
        let dead = dead().count();
        let slowest = all.iter().filter_map(|tunnel| tunnel.peer.rtt_microseconds).max();
        let slowest = slowest.map(|rtt| format!(", the slowest echo takes {}", round_trip(rtt))).unwrap_or_default();
        let total = count(all.len(), "end");
        _ = writeln!(text, "{total} of tunnels, {dead} dead{slowest}; -o wide or the name of a node lists them");
    }
    text
}

fn peers(status: &Status, width: Option<usize>) -> String {
    const COLUMNS: [Column; 5] = [
        Column::text("PEER", 0),
        Column::text("ALLOWED IPS", 3),
        Column::text("ENDPOINT IN USE", 2),
        Column::number("HANDSHAKE", 1),
        Column::number("RTT", 4),
    ];
    let row = |peer: &PeerStatus| {
        let label = format!("peer/{}", peer.name);
        let known = status.tunnels().filter(|tunnel| tunnel.peer.label == label);
        // A peer talks to one leader at a time: the one that heard from it last knows best.
        let best = known.min_by_key(|tunnel| tunnel.handshake_age().unwrap_or(i64::MAX));
        let in_use = best.and_then(|tunnel| tunnel.peer.endpoint).map(|at| at.to_string());
        [
            printable(&peer.name),
            shortened(&peer.allowed_ips),
            in_use.or_else(|| peer.endpoint.as_deref().map(printable)).unwrap_or_else(|| NOTHING.to_owned()),
            match best {
                None => NOTHING.to_owned(),
                Some(tunnel) => tunnel.handshake_age().map_or_else(|| "never".to_owned(), age),
            },
            best.and_then(|tunnel| tunnel.peer.rtt_microseconds).map_or_else(|| NOTHING.to_owned(), round_trip),
        ]
    };
    let rows: Vec<_> = status.peers.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { table(&COLUMNS, &rows, width) }
}

fn troubles(troubles: &[Trouble], extent: Extent) -> String {
    if troubles.is_empty() {
        return "All is as it should be.\n".to_owned();
    }
    let mut text = "Not as it should be:\n".to_owned();
    for of_kind in troubles.chunk_by(|a, b| a.kind == b.kind) {
        let most = if extent == Extent::Wide { usize::MAX } else { MOST_TROUBLES };
        // What is to be done about several is said once, after the last of them.
        for alike in of_kind[..most.min(of_kind.len())].chunk_by(|a, b| a.remedy == b.remedy) {
            for trouble in alike {
                _ = writeln!(text, "  {}: {}", printable(&trouble.object), printable(&trouble.message));
            }
            if let Some(remedy) = &alike[0].remedy {
                _ = writeln!(text, "    -> {}", printable(remedy));
            }
        }
        if of_kind.len() > most {
            let more = of_kind.len() - most;
            _ = writeln!(text, "  … and {more} more {}; -o wide lists them", of_kind[0].kind.plural());
        }
    }
    text
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::Mesh => "such things",
            Self::LeftOut => "nodes that are left out",
            Self::Agent => "things that agents fail at",
            Self::Tunnel => "dead tunnels",
            Self::Object => "parts of objects that are ignored",
            Self::Unreachable => "agents that do not answer",
        }
    }
}

fn or_nothing(text: String) -> String {
    if text.is_empty() { NOTHING.to_owned() } else { text }
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// The first two of them, and how many more there are.
fn shortened<T: ToString>(items: &[T]) -> String {
    match items {
        [first, second, more @ ..] if !more.is_empty() => {
            format!("{},{} + {}", first.to_string(), second.to_string(), more.len())
        }
        few => joined(few),
    }
}

/// Seconds in the largest unit of which there are at least two.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Bytes in binary units (IEC 80000-13), with three digits at most.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    let digits = if unit == "B" || value >= 99.5 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

fn round_trip(microseconds: u64) -> String {
    let milliseconds = microseconds as f64 / 1000.0;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.1} ms"),
        _ => format!("{milliseconds:.0} ms"),
    }
}

#[cfg(test)]
mod tests;
