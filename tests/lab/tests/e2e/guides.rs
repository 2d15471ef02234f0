//! The commands in `docs/` do what the text around them says.
//!
//! A guide's blocks of shell commands are run in a lab, in their order, and each has to end with status 0. A
//! comment right before a block says what is special about it:
//!
//! * `<!-- on: HOST -->`: it is run on that host; else where `kubectl` and `kgctl` are used,
//! * `<!-- tested: MODULE::TEST -->`: that end-to-end test covers it, so it is not run,
//! * `<!-- not run: WHY -->`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab::{Access, Api, Lab, Spec};

use crate::chart::repository;
use crate::external::in_lab_with_external;
use crate::inline_commands::questions;
use crate::manifests::kubectl;
use crate::support::{UNHURRIED, bring_up, chosen_api, in_lab, skipped};
use crate::upstream::{Distribution, install_kilo};

/// Where `kubectl` and `kgctl` are used.
const CONTROL: &str = "control";

/// The guides that are written for such a lab as this; each block of another page belongs to a test that has a lab of its
/// own, or says why it is not run.
const GUIDES: [&str; 5] = ["concepts.md", "development.md", "network-policies.md", "userspace.md", "vpn.md"];

/// The guides that are about what is in `manifests/`: they are run against a real API server without nodes, in this
/// order, where the repository is.
const INSTALLATION: [&str; 5] = ["migration.md", "quick-start.md", "install.md", "peer-validation.md", "security.md"];

/// What is done with a block.
#[derive(Debug, PartialEq)]
pub enum Fate {
    /// Run on this host or in this pod.
    Run(String),
    /// Covered by this test.
    Tested(String),
    /// Left, for this reason.
    Left(String),
}

/// A block of shell commands of a guide.
#[derive(Debug)]
pub struct Block {
    line: usize,
    fate: Fate,
    pub script: String,
}

/// The blocks of shell commands in `text`, Markdown as in CommonMark 4.5 and 4.6 as far as the guides use it.
fn blocks(text: &str) -> Result<Vec<Block>> {
    let (mut blocks, mut comment) = (Vec::new(), None);
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line == "```sh" {
            let script = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let script = script.flat_map(|line| [line, "\n"]).collect();
            blocks.push(Block { line: number + 1, fate: fate(comment)?, script });
        }
        comment = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
    }
    Ok(blocks)
}

fn fate(comment: Option<&str>) -> Result<Fate> {
    let Some(comment) = comment else { return Ok(Fate::Run(CONTROL.to_owned())) };
    let (kind, what) = comment.split_once(": ").with_context(|| format!("{comment:?} has no colon"))?;
    match kind {
        "on" => Ok(Fate::Run(what.to_owned())),
        "tested" => Ok(Fate::Tested(what.to_owned())),
        "not run" => Ok(Fate::Left(what.to_owned())),
        other => anyhow::bail!("{other:?}: want on, tested or not run"),
    }
}

pub fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// All pages, by their paths in `docs/`.
pub fn pages() -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for directory in ["", "cni/"] {
        for entry in fs::read_dir(docs().join(directory))? {
            let name = entry?.file_name().into_string().ok().context("the name of a page")?;
            if name.ends_with(".md") {
                pages.push(format!("{directory}{name}"));
            }
        }
    }
    Ok(pages)
}

pub fn guide(name: &str) -> Result<Vec<Block>> {
    let path = docs().join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    blocks(&text).with_context(|| format!("docs/{name}"))
}

#[test]
fn every_block_of_a_guide_is_run_or_tested_or_says_why_not() -> Result<()> {
    let pages = pages()?;
    ensure!(pages.len() > 25, "{pages:?}");
    for name in &pages {
        let is_run = GUIDES.iter().chain(&INSTALLATION).any(|guide| guide == name);
        for Block { line, fate, .. } in guide(name)? {
            match fate {
                Fate::Run(_) => ensure!(is_run, "docs/{name}:{line}: which test covers it?"),
                Fate::Tested(test) => {
                    let (module, function) = test.split_once("::").context("want MODULE::TEST")?;
                    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/e2e/{module}.rs"));
                    let source = fs::read_to_string(source).with_context(|| format!("docs/{name}:{line}: {test}"))?;
                    ensure!(source.contains(&format!("fn {function}(")), "docs/{name}:{line}: there is no test {test}");
                }
                Fate::Left(why) => ensure!(why.len() > 10, "docs/{name}:{line}: why is it not run?"),
            }
        }
    }
    Ok(())
}

#[test]
fn a_comment_decides_only_the_block_right_after_it() -> Result<()> {
    let found =
        blocks("<!-- on: paris-1 -->\n```sh\nwg\nip a\n```\n<!-- not run: x -->\n\n```sh\nls\n```\n```yaml\n```\n")?;
    let fates: Vec<_> = found.iter().map(|block| (block.line, &block.fate, block.script.as_str())).collect();
    let (first, second) = (Fate::Run("paris-1".into()), Fate::Run(CONTROL.into()));
    ensure!(fates == [(2, &first, "wg\nip a\n"), (8, &second, "ls\n")], "{fates:?}");
    ensure!(blocks("<!-- elsewhere: x -->\n```sh\n```\n").is_err());
    Ok(())
}

/// Takes away what a guide may have left on the laptop when it failed half-way: it is no child of ours.
struct Laptop<'a>(&'a Lab);

impl Drop for Laptop<'_> {
    fn drop(&mut self) {
        // Not there if all went well.
        let _ = self.0.exec("laptop", &["ip", "link", "delete", "laptop"]);
    }
}

#[test]
fn the_guides_work() -> Result<()> {
    let shape = |spec: Spec| {
        spec.location("paris", Access::Public)
            .location("rome", Access::Public)
            .location("oslo", Access::Elastic)
            .location("home", Access::Masquerade)
            .location("abroad", Access::Public)
            .nodes("paris", 2)
            .nodes("rome", 1)
            .nodes("oslo", 1)
            .nodes("home", 1)
            .host("laptop", "abroad")
    };
    in_lab_with_external("guides", shape, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let _laptop = Laptop(lab);
        for name in GUIDES {
            for Block { line, fate, script } in guide(name)? {
                let Fate::Run(host) = fate else { continue };
                run(lab, &host, &script).with_context(|| format!("docs/{name}:{line}"))?;
                // What a person reads next takes longer than what the agents do now.
                lab.wait_mesh(crate::support::DEADLINE).with_context(|| format!("after docs/{name}:{line}"))?;
            }
        }
        Ok(())
    })
}

#[test]
fn the_installation_guides_work() -> Result<()> {
    if chosen_api()? != Api::Real {
        return skipped(&anyhow::anyhow!("needs a real kube-apiserver: KG_E2E_API=real"));
    }
    in_lab(
        "installation",
        |spec: Spec| spec,
        |lab| {
            install_kilo(lab, Distribution::Kubeadm)?;
            let setting =
                format!("cd {}\nexport KUBECONFIG={}", repository("").display(), lab.kubeconfig_on_hosts().display());
            for name in INSTALLATION {
                for Block { line, fate, script } in guide(name)? {
                    let Fate::Run(host) = fate else { continue };
                    lab.exec(&host, &["bash", "-euo", "pipefail", "-c", &format!("{setting}\n{script}")])
                        .with_context(|| format!("docs/{name}:{line}"))?;
                }
            }
            for (place, question) in questions()? {
                lab.exec(CONTROL, &["bash", "-c", &format!("{setting}\n{question}")]).context(place)?;
            }
            let left = kubectl(lab, &["get", "daemonset", "-n", "kube-system", "-o", "name"])?;
            ensure!(left.trim() == "daemonset.apps/kilo", "{left}");
            let roles = kubectl(lab, &["get", "clusterrole,clusterrolebinding", "-o", "name"])?;
            ensure!(!roles.contains("kilo-upstream"), "{roles}");
            Ok(())
        },
    )
}

/// Runs a script as a person would, who has the programs on the path and all files in one directory.
fn run(lab: &Lab, host: &str, script: &str) -> Result<()> {
    let directory = lab.directory().join("guides");
    fs::create_dir_all(&directory)?;
    let programs = lab::program("kgctl")?;
    let programs = programs.parent().context("kgctl is in a directory")?;
    let pod = |name: &str| lab.pod_ip(name).map(|ip| ip.to_string());
    let oslo = lab.addresses("oslo-1")?.public.context("oslo-1 has a public address")?;
    let setting = [
        format!("cd {}", directory.display()),
        format!("PATH={}:$PATH", programs.display()),
        format!("export KUBECONFIG={}", lab.kubeconfig_on_hosts().display()),
        format!("PARIS_POD={} ROME_POD={}", pod("paris-1-pod1")?, pod("rome-1-pod1")?),
        format!("OSLO_PUBLIC_IP={oslo}"),
    ];
    lab.exec(host, &["bash", "-euo", "pipefail", "-c", &format!("{}\n{script}", setting.join("\n"))])?;
    Ok(())
}
