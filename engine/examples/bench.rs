//! Throughput of this engine and of wireguard-go, in turn, on the same two hosts made of
//! network namespaces: `cargo run --release -p engine --example bench [rounds [seconds]]`.
//!
//! Both daemons and iperf3 share the machine, so the CPU seconds per GB (both daemons) are the
//! figure to compare between machines. Needs root and iperf3.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use common::{Host, Pair, Process};

/// A name and the arguments of iperf3 that make the load.
const LOADS: [(&str, &[&str]); 3] = [
    ("TCP, 1 stream", &[]),
    ("TCP, 4 streams", &["-P", "4"]),
    ("UDP, 1400 bytes, overload", &["-u", "-b", "0", "-l", "1400"]),
];

#[derive(Clone, Copy)]
struct Sample {
    megabits: f64,
    cpu_per_gigabyte: f64,
}

fn main() {
    if !common::can_run() {
        return;
    }
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let rounds: usize = arguments.next().unwrap_or(5);
    let seconds: usize = arguments.next().unwrap_or(3);
    let with_peer = Command::new("wireguard-go").arg("--version").output().is_ok();

    let mut ours = vec![Vec::new(); LOADS.len()];
    let mut theirs = vec![Vec::new(); LOADS.len()];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let pair = Pair::new(true);
        measure(&pair.a, &pair.b, &[std::process::id()], seconds, &mut ours);
        drop(pair);
        if with_peer {
            let (a, b) = (Host::new("a"), Host::new("b"));
            common::wire(0, (&a, 1), (&b, 2));
            let daemons = [common::wireguard_go(&a, 1, 2), common::wireguard_go(&b, 2, 1)];
            let ids: Vec<_> = daemons.iter().map(Process::id).collect();
            measure(&a, &b, &ids, seconds, &mut theirs);
        }
    }
    print!("{}", report(&ours, &theirs));
    if !with_peer {
        println!("wireguard-go: not installed, not measured");
    }
}

fn measure(a: &Host, b: &Host, daemons: &[u32], seconds: usize, samples: &mut [Vec<Sample>]) {
    a.ping("10.77.0.2");
    for ((_, load), samples) in LOADS.iter().zip(samples) {
        let server = b.spawn(&["iperf3", "-s", "-1", "-B", "10.77.0.2"]);
        let listening = || b.run(&["ss", "-Hltn", "sport", "=", ":5201"]).contains("5201");
        common::wait_until("iperf3 listens", common::SOON, listening);
        let before = cpu_seconds(daemons);
        let seconds = seconds.to_string();
        let client = ["iperf3", "-c", "10.77.0.2", "-t", &seconds, "-f", "m"];
        let text = a.run(&[&client[..], load].concat());
        let used = cpu_seconds(daemons) - before;
        server.finish();
        let megabits = received_megabits(&text).expect("iperf3 says what was received");
        let gigabytes = megabits * seconds.parse::<f64>().expect("a number") / 8000.0;
        samples.push(Sample { megabits, cpu_per_gigabyte: used / gigabytes });
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The figure before `Mbits/sec` in the last line that says `receiver`.
fn received_megabits(text: &str) -> Option<f64> {
    let line = text.lines().rfind(|line| line.ends_with("receiver"))?;
    let (before, _) = line.split_once(" Mbits/sec")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// User and system time of some processes, from `/proc/<pid>/stat` (`proc(5)`), in seconds.
fn cpu_seconds(processes: &[u32]) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = |id: &u32| -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let times = fields.split(' ').skip(11).take(2);
        times.map(|field| field.parse::<f64>().expect("a number")).sum()
    };
    processes.iter().map(ticks).sum::<f64>() / TICKS_PER_SECOND
}

fn report(ours: &[Vec<Sample>], theirs: &[Vec<Sample>]) -> String {
    let mut text =
        String::from("load                       engine Mbit/s (CPU s/GB)  wireguard-go Mbit/s (CPU s/GB)  ratio\n");
    for (((name, _), ours), theirs) in LOADS.iter().zip(ours).zip(theirs) {
        let mine = median(ours, |sample| sample.megabits);
        let cpu = median(ours, |sample| sample.cpu_per_gigabyte);
        let _ = write!(text, "{name:<26} {mine:>13.0} ({cpu:>5.1})");
        if !theirs.is_empty() {
            let peer = median(theirs, |sample| sample.megabits);
            let cpu = median(theirs, |sample| sample.cpu_per_gigabyte);
            let _ = write!(text, "     {peer:>19.0} ({cpu:>5.1})     {:>9.2}", mine / peer);
        }
        text.push('\n');
    }
    text
}

fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let mut figures: Vec<_> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
