//! What is measured, and how.

use std::time::Duration;

use super::common::implementation::Implementation;
use super::common::{self, Host, Process, flood, private_key, wire};
use super::daemons::{self, Peer, cpu_seconds, resident};

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub more_is_better: bool,
}

const fn rate(name: &'static str, unit: &'static str) -> Row {
    Row { name, unit, more_is_better: true }
}

const fn cost(name: &'static str, unit: &'static str) -> Row {
    Row { name, unit, more_is_better: false }
}

pub const ROWS: [Row; 16] = [
    rate("TCP, 1 stream", "Mbit/s"),
    rate("TCP, 4 streams", "Mbit/s"),
    cost("CPU of both daemons, TCP, 1 stream", "s/GB"),
    rate("UDP received at overload, packets of 1,400 bytes", "Mbit/s"),
    rate("UDP received at overload, each in two fragments", "Mbit/s"),
    rate("UDP received at overload, 64 bytes", "packets/s"),
    rate("TCP, underlay without GSO and GRO", "Mbit/s"),
    cost("round trip, idle, median", "ms"),
    cost("round trip, TCP load, 99th percentile", "ms"),
    cost("memory, 1 peer, after load", "MB"),
    cost("memory, 10 peers", "MB"),
    cost("memory, 1,000 peers", "MB"),
    rate("TCP to one of 1,000 peers, over that to one", "ratio"),
    rate("TCP, 4 peers at once", "Mbit/s"),
    rate("TCP in a flood of handshakes, over that beside a flood of nobody", "ratio"),
    rate("handshakes in that flood", "1/s"),
];
const TCP_1: usize = 0;
const TCP_4: usize = 1;
const CPU: usize = 2;
const UDP: usize = 3;
const FRAGMENTS: usize = 4;
const SMALL: usize = 5;
const NO_OFFLOAD: usize = 6;
const IDLE: usize = 7;
const LOADED: usize = 8;
const MEMORY_1: usize = 9;
const MEMORY_10: usize = 10;
const MEMORY_1000: usize = 11;
const MANY: usize = 12;
const FOUR: usize = 13;
const FLOOD: usize = 14;
const FLOOD_RATE: usize = 15;

/// An address that no host of the second wire has.
const NOBODY: &str = "10.99.1.77";

/// Bytes of the headers of IPv4 and UDP.
const UDP_HEADERS: usize = 28;

/// Measures everything once; what an implementation cannot do is left out.
pub fn measure(implementation: &Implementation, seconds: usize, mut note: impl FnMut(usize, f64)) {
    {
        let Some(pair) = Pair::new(implementation, 0) else { return };
        let before = cpu_seconds(&pair.ids());
        let tcp = pair.load(seconds, &[]).megabits;
        note(TCP_1, tcp);
        note(CPU, (cpu_seconds(&pair.ids()) - before) / (tcp * seconds as f64 / 8000.0));
        note(TCP_4, pair.load(seconds, &["-P", "4"]).megabits);
        let udp = |length: usize| pair.load(seconds, &["-u", "-b", "0", "-l", &length.to_string()]);
        note(UDP, udp(1400 - UDP_HEADERS).megabits);
        note(FRAGMENTS, udp(1400).megabits);
        note(SMALL, udp(64).packets / seconds as f64);
        note(MEMORY_1, resident(pair.ids()[1]));
        pair.settle();
        note(IDLE, percentile(&pair.round_trips(200), 0.5));
        let loaded = std::thread::scope(|scope| {
            scope.spawn(|| pair.load(3, &[]));
            percentile(&pair.round_trips(200), 0.99)
        });
        note(LOADED, loaded);
        let (flooded, rate) = pair.flooded(seconds);
        note(FLOOD, flooded);
        note(FLOOD_RATE, rate);
    }
    if let Some(pair) = Pair::new(implementation, 0) {
        pair.without_offloads();
        note(NO_OFFLOAD, pair.load(seconds, &[]).megabits);
    }
    if let Some(pair) = Pair::new(implementation, 9) {
        note(MEMORY_10, resident(pair.ids()[1]));
    }
    if let (Some(many), Some(one)) = (Pair::new(implementation, 999), Pair::new(implementation, 0)) {
        note(MEMORY_1000, resident(many.ids()[1]));
        let rate = |pair: &Pair| pair.load(seconds, &[]).megabits;
        note(MANY, over(|| rate(&many) + rate(&many), || rate(&one)));
    }
    if let Some(megabits) = four_at_once(implementation, seconds) {
        note(FOUR, megabits);
    }
}

/// The sum of two figures, over that of one before and one after: the machine changes for both alike.
fn over(two: impl FnOnce() -> f64, one: impl Fn() -> f64) -> f64 {
    let before = one();
    two() / (before + one())
}

/// Two hosts, a wire, and a daemon on each. `b` has so many more peers.
struct Pair {
    // Daemons first: they go before the hosts they are on.
    daemons: [Process; 2],
    a: Host,
    b: Host,
}

impl Pair {
    fn new(implementation: &Implementation, silent: u16) -> Option<Self> {
        let (a, b) = (Host::new("a"), Host::new("b"));
        wire(0, (&a, 1), (&b, 2));
        let peers: Vec<_> = std::iter::once(Peer::host(1, 0)).chain(Peer::silent(silent)).collect();
        let daemons = [
            daemons::start(implementation, &a, 1, &[Peer::host(2, 0)])?,
            daemons::start(implementation, &b, 2, &peers)?,
        ];
        a.ping("10.77.0.2");
        Some(Self { daemons, a, b })
    }

    fn ids(&self) -> [u32; 2] {
        [self.daemons[0].id(), self.daemons[1].id()]
    }

    fn load(&self, seconds: usize, arguments: &[&str]) -> Received {
        load(&self.a, (&self.b, "10.77.0.2"), seconds, arguments)
    }

    /// The rate of TCP while handshakes flood the receiver, over that while as many go to a wire where nobody takes them, so
    /// that the flood's sender, which shares the machine, costs the same in both; and how many a second were sent.
    fn flooded(&self, seconds: usize) -> (f64, f64) {
        let neighbour = Host::new("c");
        wire(1, (&self.a, 1), (&neighbour, 3));
        self.a.run(&["ip", "neigh", "add", NOBODY, "lladdr", "02:00:00:00:00:77", "dev", "eth1", "nud", "permanent"]);
        let rate = || self.load(seconds, &[]).megabits;
        let beside = |address: &str, work: &dyn Fn() -> f64| {
            flood::during(&self.a, &format!("{address}:51820"), private_key(2).public_key(), work)
        };
        let mut sent = 0.0;
        let flooded = || {
            let (megabits, handshakes) = beside("10.99.0.2", &|| rate() + rate());
            sent = handshakes;
            megabits
        };
        (over(flooded, || beside(NOBODY, &rate).0), sent)
    }

    /// What an interface without these abilities does.
    fn without_offloads(&self) {
        for host in [&self.a, &self.b] {
            host.run(&[
                "ethtool",
                "-K",
                "eth0",
                "gso",
                "off",
                "gro",
                "off",
                "tso",
                "off",
                "tx-udp-segmentation",
                "off",
            ]);
        }
    }

    /// Waits until what the last load left in queues is gone.
    fn settle(&self) {
        common::wait_until("an answer at once", common::SOON, || percentile(&self.round_trips(3), 0.99) < 5.0);
    }

    /// Round trips in milliseconds, a hundred a second.
    fn round_trips(&self, count: usize) -> Vec<f64> {
        let output = self.a.try_run(&["ping", "-c", &count.to_string(), "-i", "0.01", "-W", "2", "-n", "10.77.0.2"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let times = text.lines().filter_map(|line| line.split_once("time=")?.1.strip_suffix(" ms")?.parse().ok());
        times.collect()
    }
}

/// One daemon in the middle that sends to four.
fn four_at_once(implementation: &Implementation, seconds: usize) -> Option<f64> {
    let hub = Host::new("h");
    let spokes: Vec<_> = (2..6).map(|number| (number, Host::new("s"))).collect();
    for (number, spoke) in &spokes {
        wire(*number, (&hub, 1), (spoke, *number));
    }
    let peers: Vec<_> = spokes.iter().map(|(number, _)| Peer::host(*number, *number)).collect();
    let mut daemons = vec![daemons::start(implementation, &hub, 1, &peers)?];
    for (number, spoke) in &spokes {
        daemons.push(daemons::start(implementation, spoke, *number, &[Peer::host(1, *number)])?);
        hub.ping(&format!("10.77.0.{number}"));
    }
    std::thread::scope(|scope| {
        let hub = &hub;
        let load = |(number, spoke): &'_ (u8, Host)| {
            let address = format!("10.77.0.{number}");
            load(hub, (spoke, &address), seconds, &[]).megabits
        };
        let loads: Vec<_> = spokes.iter().map(|spoke| scope.spawn(move || load(spoke))).collect();
        Some(loads.into_iter().map(|load| load.join().expect("a load")).sum())
    })
}

/// What iperf3's server saw.
struct Received {
    megabits: f64,
    /// UDP only.
    packets: f64,
}

fn load(from: &Host, (to, address): (&Host, &str), seconds: usize, arguments: &[&str]) -> Received {
    let server = to.spawn(&["iperf3", "-s", "-1", "-B", address]);
    let listening = || to.run(&["ss", "-Hltn", "sport", "=", ":5201"]).contains("5201");
    common::wait_until("iperf3 listens", common::SOON, listening);
    let seconds = seconds.to_string();
    let text = from.run(&[&["iperf3", "-c", address, "-t", &seconds, "-f", "m"], arguments].concat());
    server.finish();
    let received = received(&text).expect("iperf3 says what was received");
    // Whatever is still in a queue belongs to no other load.
    std::thread::sleep(Duration::from_millis(300));
    received
}

/// The last line that says `receiver`: the figure before `Mbits/sec`, and lost and all packets before that word.
fn received(text: &str) -> Option<Received> {
    let line = text.lines().rfind(|line| line.ends_with("receiver"))?;
    let (before, after) = line.split_once(" Mbits/sec")?;
    let megabits = before.rsplit(' ').next()?.parse().ok()?;
    let lost_of_all = after.split_whitespace().find_map(|word| word.split_once('/'));
    let number = |text: &str| text.parse::<f64>().ok();
    let packets = lost_of_all.and_then(|(lost, all)| Some(number(all)? - number(lost)?)).unwrap_or(0.0);
    Some(Received { megabits, packets })
}

/// Infinite where nothing was measured.
fn percentile(figures: &[f64], part: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let index = ((figures.len() as f64 * part) as usize).min(figures.len().saturating_sub(1));
    figures.get(index).copied().unwrap_or(f64::INFINITY)
}
