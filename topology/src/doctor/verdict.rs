//! What a check comes to.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::Check;

/// How bad something is. The worst sorts last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// As it should be, and worth knowing.
    Note,
    /// It works, and something about it will not for long or not as well as it could.
    Warning,
    /// Not to be judged with the evidence there is. Not good news.
    Unknown,
    /// Something that should work does not.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Error => "error",
        })
    }
}

/// One thing that was found, with all that is needed to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check that found it.
    pub check: &'static str,
    /// How bad it is; never [`Severity::Ok`].
    pub severity: Severity,
    /// What it is about: `node/<name>`, `peer/<name>` or `cluster`.
    pub object: String,
    /// What was seen, with the values.
    pub evidence: String,
    /// What to do, as a command where there is one.
    pub remedy: String,
}

/// What a check says of the evidence. Without findings and with everything judged, all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The check's name.
    pub check: &'static str,
    /// What was found.
    pub findings: Vec<Finding>,
    /// The objects that could not be judged, each with the reason.
    pub unjudged: BTreeMap<String, String>,
    /// The objects about which something was found that another check explains, each with that check.
    pub explained: BTreeMap<String, &'static str>,
}

impl Verdict {
    pub(super) fn new(check: &Check) -> Self {
        Self { check: check.name, findings: Vec::new(), unjudged: BTreeMap::new(), explained: BTreeMap::new() }
    }

    /// The worst of it.
    pub fn severity(&self) -> Severity {
        let unjudged = if self.unjudged.is_empty() { Severity::Ok } else { Severity::Unknown };
        let explained = if self.explained.is_empty() { Severity::Ok } else { Severity::Error };
        self.findings.iter().map(|finding| finding.severity).fold(unjudged.max(explained), Severity::max)
    }

    /// Leaves what `cause` names a check for to that check.
    pub(super) fn explain(&mut self, cause: impl Fn(&str) -> Option<&'static str>) {
        self.findings.retain(|finding| match cause(&finding.object) {
            Some(check) => {
                self.explained.insert(finding.object.clone(), check);
                false
            }
            None => true,
        });
    }

    /// Something does not work.
    pub fn error(&mut self, object: impl fmt::Display, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, object, evidence, remedy);
    }

    /// Something works, but not well or not for long.
    pub fn warning(&mut self, object: impl fmt::Display, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, object, evidence, remedy);
    }

    /// Something is worth knowing.
    pub fn note(&mut self, object: impl fmt::Display, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Note, object, evidence, remedy);
    }

    /// Something cannot be told, and there is a way to change that.
    pub fn unknown(&mut self, object: impl fmt::Display, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Unknown, object, evidence, remedy);
    }

    /// `object` cannot be judged because of something that another check tells more about.
    pub fn unjudged(&mut self, object: impl fmt::Display, why: impl Into<String>) {
        self.unjudged.insert(object.to_string(), why.into());
    }

    fn add(
        &mut self,
        severity: Severity,
        object: impl fmt::Display,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (evidence, remedy) = (evidence.into(), remedy.into());
        self.findings.push(Finding { check: self.check, severity, object: object.to_string(), evidence, remedy });
    }
}
