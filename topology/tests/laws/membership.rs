//! Who lives is not dropped, whatever the clocks say and however often the API server is away.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use topology::{Membership, NodeName};

use crate::cases;

const PERIOD: u64 = 30;
const START: i64 = 1_700_000_000;

/// Somebody who checks in every 30 s, or as soon as the API server is there again.
#[derive(Clone, Debug)]
struct Agent {
    /// Seconds into each period.
    phase: u64,
    /// How much its clock is wrong.
    skew: i64,
    /// How long after an outage it is heard again.
    delay: u64,
}

fn agent() -> impl Strategy<Value = Agent> {
    let skew = prop_oneof![Just(0), -100_000i64..100_000, Just(-START + 1), Just(i64::from(i32::MAX))];
    (0..PERIOD, skew, 0u64..5).prop_map(|(phase, skew, delay)| Agent { phase, skew, delay })
}

/// Times of being away and back, in turn; back long enough for everybody to be heard.
fn outages() -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec((6u64..100, 1u64..200), 0..4).prop_map(|spans| {
        let mut now = 0;
        let outage = |(there, away): (u64, u64)| {
            let start = now + there;
            now = start + away;
            (start, now)
        };
        spans.into_iter().map(outage).collect()
    })
}

/// The seconds at which `agent` is heard.
fn heard(agent: &Agent, outages: &[(u64, u64)], until: u64) -> Vec<u64> {
    let due = (agent.phase..until).step_by(PERIOD as usize);
    let after_outage = |due: u64| match outages.iter().find(|(start, end)| (*start..*end).contains(&due)) {
        Some((_, end)) => end + agent.delay,
        None => due,
    };
    let mut heard: Vec<u64> = due.map(after_outage).collect();
    heard.dedup();
    heard
}

const END: u64 = 900;

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn who_checks_in_is_never_dropped(agents in vec(agent(), 1..4), own in agent(), own_skew in -100_000i64..100_000, outages in outages()) {
        let mut members = Membership::new(Duration::from_secs(2 * PERIOD));
        let schedules: Vec<Vec<u64>> = agents.iter().map(|agent| heard(agent, &outages, END)).collect();
        let echoes = heard(&Agent { delay: 0, ..own }, &outages, END);
        let names: Vec<NodeName> = (0..agents.len()).map(|n| format!("n{n}").into()).collect();
        let mut times = vec![0; agents.len()];
        for second in 0..END {
            let now = Duration::from_secs(second);
            // Our own echo comes first: the worst case.
            if echoes.contains(&second) {
                members.echo(now);
            }
            for ((name, agent), (schedule, times)) in names.iter().zip(&agents).zip(schedules.iter().zip(&mut times)) {
                if schedule.contains(&second) {
                    members.observe(name, START + second as i64 + agent.skew, now, START + second as i64 + own_skew);
                    *times += 1;
                }
                // Once it was seen to change, its clock does not matter.
                if *times >= 2 {
                    prop_assert!(members.is_alive(name), "{} at {}, outages {:?}", name, second, outages);
                }
            }
        }
    }

    #[test]
    fn nobody_is_dropped_without_an_echo(agents in vec(agent(), 1..4), silence in 0u64..1_000_000) {
        let mut members = Membership::new(Duration::from_secs(2 * PERIOD));
        let name = |n: usize| NodeName::from(format!("n{n}"));
        for (n, agent) in agents.iter().enumerate() {
            members.observe(&name(n), START + agent.skew, Duration::ZERO, START);
            members.observe(&name(n), START + agent.skew + 30, Duration::from_secs(30), START + 30);
        }
        let later = Duration::from_secs(30 + silence);
        members.observe(&"other".into(), START, later, START + silence as i64);
        prop_assert!((0..agents.len()).all(|n| members.is_alive(&name(n))));
        // The first echo after that is no evidence either.
        members.echo(later);
        prop_assert!((0..agents.len()).all(|n| members.is_alive(&name(n))));
    }

    #[test]
    fn who_falls_silent_is_dropped_after_two_periods_and_within_four(agent in agent(), every in 1..=PERIOD, last in 1u64..5) {
        let mut members = Membership::new(Duration::from_secs(2 * PERIOD));
        let name = NodeName::from("n");
        let silent_from = agent.phase + last * PERIOD;
        for second in 0..=silent_from + 4 * PERIOD {
            let now = Duration::from_secs(second);
            if second <= silent_from && second % PERIOD == agent.phase {
                members.observe(&name, START + second as i64 + agent.skew, now, START + second as i64);
            }
            if second % every == 0 {
                members.echo(now);
            }
            if (PERIOD + agent.phase..silent_from + 2 * PERIOD).contains(&second) {
                prop_assert!(members.is_alive(&name), "{} is too early", second);
            }
        }
        prop_assert!(!members.is_alive(&name));
    }
}
