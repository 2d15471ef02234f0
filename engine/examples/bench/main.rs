//! How fast this engine is, and how fast others are, in turn on the same hosts made of network namespaces:
//! `make bench`, or `cargo run --release -p engine --example bench -- [--rounds N] [--seconds S] [NAME=PATH...]`.
//!
//! Both daemons and iperf3 share the machine, so what compares between machines is the ratios and the CPU seconds per
//! GB, not the rates. Needs root, `wg` and iperf3.

#[path = "../../tests/common/mod.rs"]
mod common;
mod daemons;
mod report;
mod rows;

use std::collections::BTreeMap;

use common::implementation::Implementation;
use rows::ROWS;

/// What was measured: by row, by implementation, one figure for each round.
pub type Samples = BTreeMap<(usize, usize), Vec<f64>>;

struct Arguments {
    rounds: usize,
    seconds: usize,
    implementations: Vec<Implementation>,
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [mode, interface] if mode == daemons::DEVICE => daemons::be_device(interface),
        _ => match parse(&arguments) {
            Ok(arguments) => compare(&arguments),
            Err(what) => {
                eprintln!("bench: {what}\nusage: bench [--rounds N] [--seconds S] [NAME=PATH...]");
                std::process::exit(2);
            }
        },
    }
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments { rounds: 5, seconds: 3, implementations: vec![daemons::ours()] };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().ok_or(format!("{argument} needs a number"))?;
            let number: usize = text.parse().map_err(|_| format!("{argument} {text}: not a number"))?;
            if number == 0 { Err(format!("{argument} 0: must be more")) } else { Ok(number) }
        };
        match argument.as_str() {
            "--rounds" => parsed.rounds = number()?,
            "--seconds" => parsed.seconds = number()?,
            _ => {
                let other = argument.split_once('=').and_then(|(name, path)| Implementation::other(name, path));
                parsed.implementations.push(other.ok_or(format!("{argument}: neither a flag nor NAME=PATH"))?);
            }
        }
    }
    Ok(parsed)
}

fn compare(arguments: &Arguments) {
    if !common::can_run() {
        return;
    }
    let mut samples = Samples::new();
    for round in 1..=arguments.rounds {
        for (number, implementation) in arguments.implementations.iter().enumerate() {
            eprintln!("round {round} of {}: {}", arguments.rounds, implementation.name);
            rows::measure(implementation, arguments.seconds, |row, figure| {
                samples.entry((row, number)).or_default().push(figure);
            });
        }
    }
    print!("{}", report::table(&ROWS, &arguments.implementations, &samples));
}
