//! The nodes' clocks against that of the API server.
//!
//! Our agents judge who is alive by what arrives and not by clocks. Upstream's compare `last-seen` with their
//! own clock and drop a node after 60 s, and whoever has just started, ours or upstream's, has only the time
//! in `last-seen` to go by.

use super::{AgentAnswer, Check, ClockReading, Evidence, Verdict};
use crate::annotations::LAST_SEEN;

pub(super) const CHECK: Check =
    Check::passive("clock-skew", "the nodes' clocks agree with the API server's to within 5 s", judge);

/// More than a round trip and a second's rounding, milliseconds.
const TOLERABLE: i64 = 5_000;

/// Half of what a node may be silent: the other half is the check-in period. Milliseconds.
const HARMFUL: i64 = 30_000;

const REMEDY: &str = "set the clock: chronyc makestep, or systemctl restart systemd-timesyncd; \
                      and see that time synchronisation runs";

/// By how much a clock is ahead of the API server's, milliseconds: at least and at most.
type Ahead = (i64, i64);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let Some(api) = evidence.api_clock.map(|reading| api_ahead(&reading)) else {
        return verdict.unjudged("cluster", "the API server does not say what time it is (no Date header)");
    };
    report(verdict, "this machine", "the clock where kgctl runs", (-api.1, -api.0));
    for node in evidence.nodes.iter().filter(|node| node.had_agent()) {
        let whose = node.to_string();
        if let AgentAnswer::Diagnosis { clock, .. } = &node.agent {
            let (least, most) = clock.ahead();
            report(verdict, &whose, "the node's clock", (least - api.1, most - api.0));
            continue;
        }
        // A check-in cannot be later than now, and how long ago it was is not known.
        let seen = node.node.last_seen.saturating_mul(1000).saturating_sub(evidence.now_ms) - api.1;
        if seen > TOLERABLE {
            report(verdict, &whose, &format!("{LAST_SEEN} is in the future: the clock"), (seen, seen));
        } else if let Err(why) = node.diagnosis() {
            verdict.unjudged(node, why);
        }
    }
}

/// The API server's clock against the own one; the header has whole seconds, cut off.
fn api_ahead(reading: &ClockReading) -> Ahead {
    let (least, most) = reading.ahead();
    (least, most.saturating_add(999))
}

fn report(verdict: &mut Verdict, object: &str, whose: &str, (least, most): Ahead) {
    let (way, certain) = if least > 0 { ("ahead of", least) } else { ("behind", -most) };
    if certain <= TOLERABLE {
        return;
    }
    let evidence = format!("{whose} is {} s {way} the API server's", certain / 1000);
    if certain >= HARMFUL && object.starts_with("node/") {
        verdict.error(object, evidence, REMEDY);
    } else {
        verdict.warning(object, evidence, REMEDY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::{Error, Warning},
        testing::{NOW, expect_only, findings, healthy},
    };

    fn set(evidence: &mut Evidence, node: usize, ahead: i64) {
        let AgentAnswer::Diagnosis { clock, .. } = &mut evidence.nodes[node].agent else { panic!() };
        clock.theirs += ahead;
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_its_direction() {
        expect_only("clock-skew", Error, "node/n1", &["3598 s ahead of"], |evidence| set(evidence, 0, 3_600_000));
        expect_only("clock-skew", Error, "node/n2", &["99 s behind"], |evidence| set(evidence, 1, -100_000));
        expect_only("clock-skew", Warning, "node/n3", &["8 s ahead of"], |evidence| set(evidence, 2, 10_000));
        assert_eq!(findings(|evidence| set(evidence, 0, 4_000)), []);
    }

    #[test]
    fn the_own_clock_does_not_count_against_the_nodes() {
        expect_only("clock-skew", Warning, "this machine", &["behind"], |evidence| {
            for node in 0..3 {
                set(evidence, node, 100_000);
            }
            evidence.api_clock.as_mut().unwrap().theirs += 100_000;
        });
    }

    #[test]
    fn slow_answers_prove_nothing() {
        let slow = findings(|evidence| {
            let AgentAnswer::Diagnosis { clock, .. } = &mut evidence.nodes[0].agent else { panic!() };
            *clock = ClockReading { theirs: NOW, asked: NOW - 60_000, answered: NOW };
        });
        assert_eq!(slow, []);
    }

    #[test]
    fn without_the_agent_only_a_check_in_from_the_future_tells() {
        let mut evidence = healthy();
        evidence.nodes[0].agent = AgentAnswer::Foreign("404".to_owned());
        evidence.nodes[0].node.last_seen = NOW / 1000 + 100;
        evidence.nodes[1].agent = AgentAnswer::Foreign("404".to_owned());
        let verdict = super::super::judge(&[CHECK], &evidence).remove(0);
        assert_eq!((verdict.findings.len(), verdict.unjudged.len()), (1, 1), "{verdict:?}");
        evidence.api_clock = None;
        let verdict = super::super::judge(&[CHECK], &evidence).remove(0);
        assert_eq!((verdict.findings.len(), verdict.unjudged.len()), (0, 1), "{verdict:?}");
    }
}
