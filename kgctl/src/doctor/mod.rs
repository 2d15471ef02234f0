//! `kgctl doctor`: finds what is wrong with the mesh, and says how to mend it. What is judged, and how, is
//! in [`topology::doctor`]; here the evidence is gathered.

mod gather;

use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use serde_json::json;
use topology::doctor::{CHECKS, Check, Severity, Verdict, find, judge, text};

use crate::{
    cli::Global,
    outcome::{self, Outcome},
    reach::Reach,
};

/// The end of the help.
const AFTER_HELP: &str = "\
Results:
  error    something that should work does not
  unknown  it cannot be told, for instance because an agent does not answer; never taken for good
  warning  it works, but not well or not for long
  note     it works, and there is something to know about it
  ok       it is as it should be

Exit codes:
  0  there are warnings and notes at most; with --strict, notes at most
  3  there are errors, or something is unknown

Rights:
  list nodes and peers; and, unless kgctl reaches the agents' port directly, get nodes/proxy or
  list pods and get pods/proxy. Checks that have agents try something need create, too.

See also:
  docs/troubleshooting.md has a section for each check.";

/// Find what is wrong with the mesh, and how to mend it.
///
/// Looks at the Nodes and Peers of the cluster and asks every agent how it is. Each check has a name; what
/// it finds comes with what was seen and what to do about it. Nothing is changed anywhere.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Doctor {
    /// Only this check; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names()), hide_possible_values = true)]
    check: Vec<String>,
    /// Only list the checks.
    #[arg(long)]
    list: bool,
    /// Exit with 3 for warnings, too.
    #[arg(long)]
    strict: bool,
    /// How to print what is found.
    #[arg(long, short, value_name = "FORMAT", default_value = "table", value_enum)]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: the worst first.
    Table,
    /// For programs.
    Json,
}

fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name)
}

/// Runs the command.
pub async fn run(command: &Doctor, global: &Global) -> anyhow::Result<Outcome> {
    let checks = chosen(&command.check);
    if command.list {
        return outcome::print(&list(&checks));
    }
    let evidence = gather::gather(global, &command.reach, &checks).await?;
    let verdicts = judge(&checks, &evidence);
    outcome::print(&match command.output {
        Format::Table => text::render(&verdicts),
        Format::Json => json(&verdicts)?,
    })?;
    Ok(outcome_of(&verdicts, command.strict))
}

/// The checks of these names, all if there are none; in the order of [`CHECKS`] in any case.
fn chosen(names: &[String]) -> Vec<Check> {
    let wanted = |check: &&Check| {
        names.is_empty() || names.iter().any(|name| find(name).is_some_and(|found| found.name == check.name))
    };
    CHECKS.iter().filter(wanted).copied().collect()
}

fn list(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    checks.iter().map(|check| format!("{:width$}  {}\n", check.name, check.about)).collect()
}

fn json(verdicts: &[Verdict]) -> serde_json::Result<String> {
    let checks = verdicts.iter().map(|verdict| {
        let mut check = serde_json::to_value(verdict)?;
        check["severity"] = serde_json::to_value(verdict.severity())?;
        Ok(check)
    });
    let checks = checks.collect::<serde_json::Result<Vec<_>>>()?;
    Ok(serde_json::to_string_pretty(&json!({ "severity": worst(verdicts), "checks": checks }))? + "\n")
}

fn worst(verdicts: &[Verdict]) -> Severity {
    verdicts.iter().map(Verdict::severity).max().unwrap_or(Severity::Ok)
}

fn outcome_of(verdicts: &[Verdict], strict: bool) -> Outcome {
    let tolerable = if strict { Severity::Note } else { Severity::Warning };
    if worst(verdicts) > tolerable { Outcome::Negative } else { Outcome::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_chosen_by_name_and_keep_their_order() {
        assert_eq!(chosen(&[]).len(), CHECKS.len());
        let names: Vec<_> = chosen(&["ready".to_owned(), "agent".to_owned(), "ready".to_owned()])
            .iter()
            .map(|check| check.name)
            .collect();
        assert_eq!(names, ["agent", "ready"]);
    }

    #[test]
    fn the_list_has_a_line_for_each_check() {
        let text = list(CHECKS);
        assert_eq!(text.lines().count(), CHECKS.len());
        assert!(text.contains("\nready "), "{text}");
    }

    #[test]
    fn the_guide_has_a_section_for_each_check_in_their_order() {
        let guide = include_str!("../../../docs/troubleshooting.md");
        let sections: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(sections, names().collect::<Vec<_>>());
        for section in guide.split("\n## ").skip(1) {
            for part in ["**You see**", "**It means**", "**Do**"] {
                assert!(section.contains(part), "{part} is missing in {section}");
            }
        }
    }

    #[test]
    fn what_is_unknown_is_not_taken_for_good() {
        let verdict = |severity: &str| -> Vec<Verdict> {
            let mut verdict = topology::doctor::Verdict {
                check: "ready",
                findings: vec![],
                unjudged: Default::default(),
                explained: Default::default(),
            };
            match severity {
                "unknown" => verdict.unjudged("node/a", "why"),
                "warning" => verdict.warning("node/a", "seen", "do"),
                "error" => verdict.error("node/a", "seen", "do"),
                "note" => verdict.note("node/a", "seen", "do"),
                _ => {}
            }
            vec![verdict]
        };
        for (severity, plain, strict) in [
            ("ok", Outcome::Done, Outcome::Done),
            ("note", Outcome::Done, Outcome::Done),
            ("warning", Outcome::Done, Outcome::Negative),
            ("unknown", Outcome::Negative, Outcome::Negative),
            ("error", Outcome::Negative, Outcome::Negative),
        ] {
            let verdicts = verdict(severity);
            assert_eq!((outcome_of(&verdicts, false), outcome_of(&verdicts, true)), (plain, strict), "{severity}");
            let json = json(&verdicts).unwrap();
            assert!(json.contains(&format!("\"severity\": \"{severity}\"")), "{json}");
        }
    }
}
