//! Which clusters are meant, and what they are called.

use std::{collections::BTreeMap, path::PathBuf};

use agent::cluster::{Client, context_name};
use anyhow::{Context as _, bail};
use clap::{Args, CommandFactory, ValueHint, error::ErrorKind};
use ipnet::IpNet;
use topology::join::ClusterName;

use crate::{
    cidrs::{Cidrs, CidrsError},
    cli::Cli,
};

/// The flags that say which clusters are meant.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which clusters")]
pub struct Which {
    /// Kubeconfig file of a cluster; repeat it for each cluster.
    #[arg(long, id = "kubeconfig", value_name = "FILE", value_hint = ValueHint::FilePath)]
    kubeconfig: Vec<PathBuf>,
    /// Context of the kubeconfig; repeat it for each cluster.
    ///
    /// Several contexts are all of the one kubeconfig, or one of each, in the same order.
    #[arg(long, id = "context", value_name = "NAME")]
    context: Vec<String>,
}

/// Names for the clusters, and what cannot be told by asking them.
#[derive(Args, Clone, Debug, Default)]
pub struct Facts {
    /// What the clusters are called in each other; repeat it for each cluster, in the same order.
    ///
    /// By default each is called by its context's name, as far as that can be a label.
    #[arg(long, value_name = "NAME")]
    name: Vec<ClusterName>,
    /// Service CIDRs of a cluster, for which it is not asked then; none: its services are not routed.
    #[arg(long, value_name = "NAME=CIDR,...", value_parser = named_cidrs)]
    service_cidr: Vec<(ClusterName, Vec<IpNet>)>,
    /// Pod CIDRs of a cluster as a whole, in which also nodes to come will have theirs.
    ///
    /// Without it, only the pod CIDRs that nodes have already are compared with those of other clusters.
    #[arg(long, value_name = "NAME=CIDR,...", value_parser = named_cidrs)]
    pod_cidr: Vec<(ClusterName, Vec<IpNet>)>,
}

/// Which kubeconfig and which context of it.
type Flags = (Option<PathBuf>, Option<String>);

/// A cluster that can be asked.
pub struct Connected {
    /// What it is called.
    pub name: ClusterName,
    /// The way to it.
    pub client: Client,
    /// Its service CIDRs; `None`: it is to be asked.
    pub service_cidrs: Option<Vec<IpNet>>,
    /// What is known of its pod CIDRs besides what its nodes say.
    pub pod_cidrs: Vec<IpNet>,
}

/// Ends the process: the command line is wrong.
pub fn wrong_usage(message: String) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, message).exit()
}

impl Which {
    /// Kubeconfig and context of each cluster, or what is wrong with the flags.
    fn each(&self) -> Result<Vec<Flags>, String> {
        let (files, contexts) = (&self.kubeconfig, &self.context);
        let file = |index: usize| files.get(index).cloned();
        let context = |index: usize| contexts.get(index).cloned();
        match (files.len(), contexts.len()) {
            (0 | 1, 0) => Ok(vec![(file(0), None)]),
            (0 | 1, count) => Ok((0..count).map(|index| (file(0), context(index))).collect()),
            (count, 0) => Ok((0..count).map(|index| (file(index), None)).collect()),
            (a, b) if a == b => Ok((0..a).map(|index| (file(index), context(index))).collect()),
            (a, b) => Err(format!(
                "{a} times --kubeconfig and {b} times --context: give one context for each kubeconfig, or one kubeconfig"
            )),
        }
    }

    /// The clusters, each with what a person calls it: the context's name, else the server's address.
    pub async fn connect(&self) -> anyhow::Result<Vec<(String, Client)>> {
        let mut clusters = Vec::new();
        for (file, context) in self.each().unwrap_or_else(|why| wrong_usage(why)) {
            let client = Client::from_user_config(file.as_deref(), context.as_deref()).await?;
            let name = context_name(file.as_deref(), context.as_deref());
            clusters.push((name.unwrap_or_else(|| client.server().to_owned()), client));
        }
        Ok(clusters)
    }
}

impl Facts {
    /// The clusters that `which` means, with their names and what else was given.
    pub async fn connect(&self, which: &Which) -> anyhow::Result<Vec<Connected>> {
        let found = which.connect().await?;
        if !self.name.is_empty() && self.name.len() != found.len() {
            wrong_usage(format!("{} times --name for {} clusters: give one for each", self.name.len(), found.len()));
        }
        let mut clusters: Vec<Connected> = Vec::new();
        for (index, (called, client)) in found.into_iter().enumerate() {
            let name = self.name.get(index).cloned().or_else(|| ClusterName::closest(&called));
            let name =
                name.with_context(|| format!("{called:?} can be no cluster's name: pass --name for each cluster"))?;
            if clusters.iter().any(|other| other.name == name) {
                bail!("two clusters are called {name}: give each a name of its own with --name");
            }
            clusters.push(Connected { name, client, service_cidrs: None, pod_cidrs: Vec::new() });
        }
        let services = self.of_each("--service-cidr", &self.service_cidr, &clusters);
        let pods = self.of_each("--pod-cidr", &self.pod_cidr, &clusters);
        for cluster in &mut clusters {
            cluster.service_cidrs = services.get(&cluster.name).cloned();
            cluster.pod_cidrs = pods.get(&cluster.name).cloned().unwrap_or_default();
        }
        Ok(clusters)
    }

    /// What a flag says of each cluster; it may be repeated for one.
    fn of_each(
        &self,
        flag: &str,
        given: &[(ClusterName, Vec<IpNet>)],
        clusters: &[Connected],
    ) -> BTreeMap<ClusterName, Vec<IpNet>> {
        let mut each: BTreeMap<ClusterName, Vec<IpNet>> = BTreeMap::new();
        for (name, cidrs) in given {
            if !clusters.iter().any(|cluster| cluster.name == *name) {
                let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
                wrong_usage(format!("{flag} {name}: no cluster is called so, only {}", names.join(" and ")));
            }
            each.entry(name.clone()).or_default().extend(cidrs);
        }
        each
    }
}

/// `NAME=CIDR,…` or `NAME=none`.
fn named_cidrs(text: &str) -> Result<(ClusterName, Vec<IpNet>), String> {
    let (name, list) = text.split_once('=').ok_or("expected NAME=CIDR, such as paris=10.43.0.0/16")?;
    let name = name.parse::<ClusterName>().map_err(|error| error.to_string())?;
    if list == "none" {
        return Ok((name, Vec::new()));
    }
    let cidrs: Cidrs = list.parse().map_err(|error: CidrsError| error.to_string())?;
    match cidrs.into_iter().find(|net| net.prefix_len() == 0) {
        Some(everything) => Err(format!("{everything} is everything: expected the cluster's own prefix")),
        None if list.is_empty() => Err(format!("expected {name}=CIDR, or {name}=none")),
        None => Ok((name, cidrs.into_iter().collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs_and_contexts_go_together() {
        let which = |files: &str, contexts: &str| Which {
            kubeconfig: files.split_whitespace().map(PathBuf::from).collect(),
            context: contexts.split_whitespace().map(str::to_owned).collect(),
        };
        let text = |each: Vec<Flags>| -> Vec<String> {
            let one = |(file, context): Flags| {
                format!("{}@{}", context.unwrap_or_default(), file.unwrap_or_default().display())
            };
            each.into_iter().map(one).collect()
        };
        for (files, contexts, expected) in [
            ("", "", Some(vec!["@"])),
            ("f", "", Some(vec!["@f"])),
            ("f g", "", Some(vec!["@f", "@g"])),
            ("", "a b", Some(vec!["a@", "b@"])),
            ("f", "a b c", Some(vec!["a@f", "b@f", "c@f"])),
            ("f g", "a b", Some(vec!["a@f", "b@g"])),
            ("f g", "a", None),
            ("f g", "a b c", None),
        ] {
            let each = which(files, contexts).each().ok().map(text);
            assert_eq!(each, expected.map(|each| each.into_iter().map(str::to_owned).collect()), "{files} {contexts}");
        }
    }

    #[test]
    fn prefixes_of_named_clusters_are_read() {
        let read = |text: &str| named_cidrs(text).map(|(name, cidrs)| (name.to_string(), cidrs.len()));
        assert_eq!(read("a=10.43.0.1/16,fd00::/112"), Ok(("a".to_owned(), 2)));
        assert_eq!(read("a=none"), Ok(("a".to_owned(), 0)));
        for (text, why) in [
            ("a", "expected NAME=CIDR"),
            ("A=10.0.0.0/8", "\"A\" is no cluster name"),
            ("a=10.0.0.0", "\"10.0.0.0\" is no CIDR"),
            ("a=", "expected a=CIDR, or a=none"),
            ("a=0.0.0.0/0", "0.0.0.0/0 is everything"),
        ] {
            assert!(read(text).unwrap_err().starts_with(why), "{text}");
        }
    }
}
