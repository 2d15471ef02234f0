//! Names of the cluster on this machine: systemd-resolved can send the questions about one domain to the
//! cluster's DNS server and all others where they went before (resolvectl(1)). Where it does not run,
//! people have too many ways to resolve names for us to change any of them.

use std::{io, net::IpAddr, time::Duration};

use agent::cluster::Client;
use anyhow::{Context, bail};
use clap::ValueEnum;
use tokio::process::Command;
use topology::InterfaceName;
use tracing::info;

use crate::outcome;

/// The program that talks to systemd-resolved.
const RESOLVECTL: &str = "resolvectl";

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What to do about names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Tell what to set up.
    Print,
    /// Set it up in systemd-resolved, and undo it at the end.
    Apply,
}

/// A DNS domain, without the dots that may surround it.
pub fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_matches('.');
    match topology::endpoint::is_dns_name(name) {
        true => Ok(name.to_owned()),
        false => Err("expected a DNS domain such as cluster.local".to_owned()),
    }
}

/// The cluster's names, and how this machine may come to know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    mode: Mode,
    domain: String,
    servers: Vec<IpAddr>,
    interface: InterfaceName,
    /// Whether anything was set up, or may have been.
    is_begun: bool,
}

impl Dns {
    /// Finds the cluster's DNS server unless `servers` has some, and refuses what will not be possible.
    pub async fn prepare(
        mode: Mode,
        domain: &str,
        servers: &[IpAddr],
        interface: &InterfaceName,
        client: &Client,
    ) -> anyhow::Result<Self> {
        let found = if servers.is_empty() { client.dns_addresses().await } else { Ok(servers.to_vec()) };
        let servers = found.context("--dns: the cluster's DNS server is not known; pass --dns-server ADDRESS")?;
        if servers.is_empty() {
            bail!(
                "--dns: kube-system has no Service kube-dns and none labelled k8s-app=kube-dns; pass --dns-server ADDRESS"
            );
        }
        let dns = Self { mode, domain: domain.to_owned(), servers, interface: interface.clone(), is_begun: false };
        if mode == Mode::Apply
            && let Err(error) = resolvectl(&["dns"]).await
        {
            eprint!("{}", dns.advice());
            bail!(
                "--dns=apply needs systemd-resolved: {error:#}; set names up as told above, and leave out --dns=apply"
            );
        }
        Ok(dns)
    }

    /// The servers, which have to be reached.
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// Sets names up, or prints how to.
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        let servers = self.servers.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        if self.mode == Mode::Print {
            info!("names in {} are known to {servers}; how to set that up is on stdout", self.domain);
            return outcome::print(&self.advice()).map(drop);
        }
        self.is_begun = true;
        for arguments in self.settings() {
            resolvectl(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        }
        info!("names in {} are asked of {servers}", self.domain);
        Ok(())
    }

    /// Takes back what was set up.
    pub async fn end(&self) -> anyhow::Result<()> {
        if !self.is_begun {
            return Ok(());
        }
        resolvectl(&["revert", self.interface.as_str()]).await
    }

    /// What `resolvectl` is told. The tilde makes the domain one to choose the server by, and none to be
    /// added to short names (resolved.conf(5), `Domains=`).
    fn settings(&self) -> [Vec<String>; 2] {
        let interface = self.interface.to_string();
        let servers = self.servers.iter().map(IpAddr::to_string);
        [
            ["dns".to_owned(), interface.clone()].into_iter().chain(servers).collect(),
            ["domain".to_owned(), interface, format!("~{}", self.domain)].into(),
        ]
    }

    fn advice(&self) -> String {
        let Self { domain, servers, .. } = self;
        let lines = |form: &dyn Fn(&IpAddr) -> String| servers.iter().map(form).collect::<Vec<_>>().join("\n    ");
        let quoted = |word: &String| if word.starts_with('~') { format!("'{word}'") } else { word.clone() };
        let commands = self
            .settings()
            .map(|words| format!("{RESOLVECTL} {}", words.iter().map(quoted).collect::<Vec<_>>().join(" ")));
        format!(
            "  systemd-resolved, while connected:\n    {}\n  dnsmasq, in a file of /etc/dnsmasq.d:\n    {}\n  \
             unbound, in a file of /etc/unbound/unbound.conf.d:\n    forward-zone:\n      name: \"{domain}\"\n      {}\n  \
             anything else, in /etc/resolv.conf before all other servers (it is then asked for every name):\n    {}\n",
            commands.join("\n    "),
            lines(&|server| format!("server=/{domain}/{server}")),
            servers.iter().map(|server| format!("forward-addr: {server}")).collect::<Vec<_>>().join("\n      "),
            lines(&|server| format!("nameserver {server}")),
        )
    }
}

async fn resolvectl(arguments: &[&str]) -> anyhow::Result<()> {
    let what = format!("{RESOLVECTL} {}", arguments.join(" "));
    let output = Command::new(RESOLVECTL).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, output).await.with_context(|| format!("{what}: did not end"))?;
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("the program {RESOLVECTL} was not found"),
        output => output.with_context(|| what.clone())?,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}", said.lines().next().unwrap_or("failed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_one() {
        assert_eq!(domain("cluster.local."), Ok("cluster.local".to_owned()));
        for text in ["", ".", "Not a domain", "a..b"] {
            assert!(domain(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_advice_names_the_servers_and_the_domain_in_the_words_of_each_program() {
        let dns = Dns {
            mode: Mode::Print,
            domain: "cluster.local".to_owned(),
            servers: vec!["10.96.0.10".parse().unwrap(), "fd96::a".parse().unwrap()],
            interface: "kilo0".into(),
            is_begun: false,
        };
        assert_eq!(
            dns.advice(),
            "  systemd-resolved, while connected:
    resolvectl dns kilo0 10.96.0.10 fd96::a
    resolvectl domain kilo0 '~cluster.local'
  dnsmasq, in a file of /etc/dnsmasq.d:
    server=/cluster.local/10.96.0.10
    server=/cluster.local/fd96::a
  unbound, in a file of /etc/unbound/unbound.conf.d:
    forward-zone:
      name: \"cluster.local\"
      forward-addr: 10.96.0.10
      forward-addr: fd96::a
  anything else, in /etc/resolv.conf before all other servers (it is then asked for every name):
    nameserver 10.96.0.10
    nameserver fd96::a
"
        );
    }
}
