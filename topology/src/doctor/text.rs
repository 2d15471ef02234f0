//! Verdicts as people read them: the worst first, each with what to do, and what is well in one line.

use std::{collections::BTreeMap, fmt::Write};

use super::{Finding, Severity, Verdict};
use crate::label::printable;

/// Objects that are named for one finding; more are counted.
const OBJECTS: usize = 6;

/// The width that lists are wrapped to, in characters.
const WIDTH: usize = 100;

/// Where the text behind a severity begins.
const INDENT: usize = 9;

/// What `verdicts` say, for a terminal.
pub fn render(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    let findings: Vec<&Finding> = verdicts.iter().flat_map(|verdict| &verdict.findings).collect();
    for severity in [Severity::Error, Severity::Unknown, Severity::Warning, Severity::Note] {
        for (finding, objects) in alike(findings.iter().filter(|finding| finding.severity == severity).copied()) {
            write_finding(&mut text, finding, &objects);
        }
        if severity == Severity::Error {
            write_explained(&mut text, verdicts);
        }
        if severity == Severity::Unknown {
            write_unjudged(&mut text, verdicts);
        }
    }
    let content = |verdict: &&Verdict| verdict.severity() == Severity::Ok;
    let names: Vec<&str> = verdicts.iter().filter(content).map(|verdict| verdict.check).collect();
    if !names.is_empty() {
        write_list(&mut text, Severity::Ok, "", &names);
    }
    text + &summary(verdicts)
}

/// Findings that differ in nothing but their object, with all objects.
fn alike<'a>(findings: impl Iterator<Item = &'a Finding>) -> Vec<(&'a Finding, Vec<&'a str>)> {
    let mut groups: Vec<(&Finding, Vec<&str>)> = Vec::new();
    for finding in findings {
        let same = |known: &&Finding| {
            (known.check, &known.evidence, &known.remedy) == (finding.check, &finding.evidence, &finding.remedy)
        };
        match groups.iter_mut().find(|(known, _)| same(known)) {
            Some((_, objects)) => objects.push(&finding.object),
            None => groups.push((finding, vec![&finding.object])),
        }
    }
    groups
}

fn write_finding(text: &mut String, finding: &Finding, objects: &[&str]) {
    let Finding { check, severity, evidence, remedy, .. } = finding;
    let gap = " ".repeat(INDENT);
    let objects = printable(&named(objects));
    // A String takes everything.
    _ = writeln!(text, "{severity:<INDENT$}{check}: {objects}");
    _ = writeln!(text, "{gap}  {}", printable(evidence));
    _ = writeln!(text, "{gap}  -> {}", printable(remedy));
}

fn named(objects: &[&str]) -> String {
    match objects.len().saturating_sub(OBJECTS) {
        0 => objects.join(", "),
        more => format!("{} and {more} more", objects[..OBJECTS].join(", ")),
    }
}

/// What follows from errors that were told.
fn write_explained(text: &mut String, verdicts: &[Verdict]) {
    for verdict in verdicts {
        for (object, cause) in &verdict.explained {
            _ = writeln!(
                text,
                "{:<INDENT$}{}: {}: follows from {cause}",
                Severity::Error,
                verdict.check,
                printable(object)
            );
        }
    }
}

/// The objects that could not be judged: those that lack the same, for the same checks, together.
fn write_unjudged(text: &mut String, verdicts: &[Verdict]) {
    let mut checks: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for verdict in verdicts {
        for (object, why) in &verdict.unjudged {
            checks.entry((object, why)).or_default().push(verdict.check);
        }
    }
    let mut objects: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((object, why), names) in checks {
        objects.entry((why, names)).or_default().push(object);
    }
    for ((why, names), objects) in objects {
        let head = format!("{}, because {}: ", printable(&named(&objects)), printable(why));
        write_list(text, Severity::Unknown, &head, &names);
    }
}

/// A severity and a wrapped list of names.
fn write_list(text: &mut String, severity: Severity, head: &str, names: &[&str]) {
    let mut line = format!("{severity:<INDENT$}{head}");
    let mut is_first = true;
    for name in names {
        if !is_first {
            line.push(',');
            if line.chars().count() + 1 + name.len() > WIDTH {
                _ = writeln!(text, "{line}");
                line = " ".repeat(INDENT - 1);
            }
            line.push(' ');
        }
        line.push_str(name);
        is_first = false;
    }
    _ = writeln!(text, "{line}");
}

fn summary(verdicts: &[Verdict]) -> String {
    let worst = |severity: Severity| verdicts.iter().filter(|verdict| verdict.severity() == severity).count();
    let counted =
        [(Severity::Error, "with errors"), (Severity::Unknown, "unknown"), (Severity::Warning, "with warnings")];
    let bad = counted.into_iter().map(|(severity, word)| (worst(severity), word)).filter(|(count, _)| *count > 0);
    let bad: Vec<String> = bad.map(|(count, word)| format!("{count} {word}")).collect();
    let good = if bad.is_empty() { "nothing is wrong".to_owned() } else { bad.join(", ") };
    format!("{} checks: {good}\n", verdicts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        AgentAnswer, CHECKS, judge,
        testing::{healthy, node, said},
    };
    use crate::report::{ApiProblem, PATCH};

    #[test]
    fn all_is_well_in_few_lines() {
        let text = render(&judge(CHECKS, &healthy()));
        assert!(text.starts_with("ok       agent, upstream-agent, "), "{text}");
        assert!(text.ends_with(&format!("{} checks: nothing is wrong\n", CHECKS.len())), "{text}");
        assert!(text.lines().count() < 6 && text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn the_worst_comes_first_and_what_is_alike_is_told_once() {
        let mut evidence = healthy();
        said(&mut evidence.nodes[0]).forward_drops = Some(vec!["ip filter FORWARD\x1b[2J".to_owned()]);
        said(&mut evidence.nodes[2]).forward_drops = Some(vec!["ip filter FORWARD\x1b[2J".to_owned()]);
        said(&mut evidence.nodes[2]).report.api_problems =
            vec![ApiProblem { request: PATCH.to_owned(), status: Some(403), error: "no".to_owned() }];
        evidence.nodes[2].alive = false;
        evidence.nodes.push(node(4));
        for silent in [1, 3] {
            evidence.nodes[silent].agent = AgentAnswer::Unreachable(vec!["no way".to_owned()]);
        }
        let text = render(&judge(CHECKS, &evidence));
        let starts: Vec<&str> =
            text.lines().filter(|line| !line.starts_with(' ')).map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(
            starts,
            [
                "error    rbac",
                "error    ready",
                "unknown  agent",
                "unknown  node/n2, node/n4, because its agent did not answer",
                "warning  forward-policy",
                text.lines().rev().find(|line| line.starts_with("ok ")).unwrap(),
                &format!("{} checks", CHECKS.len()),
            ],
            "{text}"
        );
        assert!(text.contains("ready: node/n3: follows from rbac\n"), "{text}");
        assert!(text.contains("forward-policy: node/n1, node/n3\n"), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn many_objects_are_counted() {
        let objects: Vec<String> = (0..20).map(|n| format!("node/{n}")).collect();
        let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        assert_eq!(named(&objects), "node/0, node/1, node/2, node/3, node/4, node/5 and 14 more");
        assert_eq!(named(&objects[..6]), "node/0, node/1, node/2, node/3, node/4, node/5");
    }
}
