//! `--iptables-forward-rules`: accepts in the FORWARD chain of iptables, where Docker or the distribution
//! has given it the policy DROP. A table of our own cannot do that: what one base chain accepts, another
//! can still drop (nft(8), "verdict statement").
//!
//! There are two implementations of iptables with a FORWARD chain each, which a packet has to pass both. The
//! rules go into each that is in use; none is brought into use by us. They are in a chain of our own, which
//! one rule with a comment leads to, so that ours can be told from others'.

use std::{collections::BTreeSet, fs};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Error,
    program::{Refused, run},
};

/// Our chain in table `filter`.
const CHAIN: &str = "KILO-FORWARD";

/// What our rule in FORWARD selects by and does, as iptables takes and prints it.
const JUMP: [&str; 6] = ["-m", "comment", "--comment", "Kilo: forward packets of the mesh", "-j", CHAIN];

/// Others that change tables are waited for. Not for a number of seconds: iptables does not put off the alarm that ends
/// the wait once it has the lock, and is interrupted in its work when that takes longer. [`run`] has a limit.
const WAIT: &str = "-w";

/// One implementation for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    is_nft: bool,
    v4: bool,
}

impl Variant {
    const ALL: [Self; 4] = [
        Self { is_nft: false, v4: true },
        Self { is_nft: false, v4: false },
        Self { is_nft: true, v4: true },
        Self { is_nft: true, v4: false },
    ];

    /// Whether it has a FORWARD chain. Asking iptables itself would make one.
    fn is_in_use(self, nft_chains: &Value) -> bool {
        if self.is_nft {
            let family = if self.v4 { "ip" } else { "ip6" };
            let chains = nft_chains["nftables"].as_array().into_iter().flatten().map(|object| &object["chain"]);
            let is_forward = |chain: &Value| {
                chain["family"] == family
                    && chain["table"] == "filter"
                    && chain["name"] == "FORWARD"
                    && chain["hook"] == "forward"
            };
            return chains.into_iter().any(is_forward);
        }
        // Of the network namespace of this thread; there is no such file while the kernel's module is not loaded.
        let names = if self.v4 { "ip_tables_names" } else { "ip6_tables_names" };
        let names = fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
        names.lines().any(|name| name == "filter")
    }

    /// The program for it: by its full name, or what `iptables` is on this host.
    async fn program(self) -> Result<String, Error> {
        let base = if self.v4 { "iptables" } else { "ip6tables" };
        let full = format!("{base}-{}", if self.is_nft { "nft" } else { "legacy" });
        for name in [&full, base] {
            // As in "iptables v1.8.9 (nf_tables)"; before 1.8 there was the older one only.
            let version = run(name, &["-V"], "").await;
            if version.is_ok_and(|version| version.contains("nf_tables") == self.is_nft) {
                return Ok(name.to_owned());
            }
        }
        Err(Error::NoIptables { program: full })
    }
}

/// The base chains that nftables has, as libnftables-json(5) says; nothing if they cannot be told.
async fn nft_chains() -> Value {
    let listing = run("nft", &["-j", "list", "chains"], "").await;
    listing.ok().and_then(|listing| serde_json::from_str(&listing).ok()).unwrap_or_default()
}

/// Accepts what is forwarded from and to `networks`, or nothing any more; returns what failed. What is so
/// already is not touched.
pub async fn set(networks: Option<&BTreeSet<IpNet>>) -> Vec<Error> {
    let nft_chains = nft_chains().await;
    let mut errors = Vec::new();
    for variant in Variant::ALL.into_iter().filter(|variant| variant.is_in_use(&nft_chains)) {
        let result = match networks {
            Some(networks) => accept(variant, networks).await,
            None => remove(variant).await,
        };
        errors.extend(result.err());
    }
    errors
}

/// The rules of our chain for one family, as iptables takes and prints them (`iptables -S`).
fn rules(v4: bool, networks: &BTreeSet<IpNet>) -> Vec<String> {
    let of_family = networks.iter().filter(|network| network.addr().is_ipv4() == v4);
    of_family.flat_map(|net| ["-s", "-d"].map(|side| format!("-A {CHAIN} {side} {net} -j ACCEPT"))).collect()
}

/// Runs iptables; what it refuses, with exit status and message, is for the caller to judge.
async fn ask(program: &str, arguments: &[&str]) -> Result<String, Refused> {
    run(program, &[&[WAIT], arguments].concat(), "").await
}

async fn accept(variant: Variant, networks: &BTreeSet<IpNet>) -> Result<(), Error> {
    let program = variant.program().await?;
    let rules = rules(variant.v4, networks);
    let present = ask(&program, &["-S", CHAIN]).await.unwrap_or_default();
    let has_rules = present.lines().skip(1).eq(rules.iter()) && !present.is_empty();
    let has_jump = ask(&program, &[&["-C", "FORWARD"], &JUMP[..]].concat()).await.is_ok();
    if has_rules && has_jump {
        return Ok(());
    }
    // Naming a chain empties it, or makes it; others are left as they are, and all comes into effect at once.
    let mut input = format!("*filter\n:{CHAIN} - [0:0]\n");
    rules.iter().for_each(|rule| input.extend([rule, "\n"]));
    if !has_jump {
        let [m, comment, flag, text, jump, chain] = JUMP;
        input += &format!("-I FORWARD 1 {m} {comment} {flag} \"{text}\" {jump} {chain}\n");
    }
    input += "COMMIT\n";
    let restored = run(&format!("{program}-restore"), &[WAIT, "--noflush"], &input).await;
    restored.map(drop).map_err(|source| Error::Iptables { action: "apply", program, source })
}

async fn remove(variant: Variant) -> Result<(), Error> {
    let program = variant.program().await?;
    // Only while there is one to delete: several, if somebody copied it.
    while ask(&program, &[&["-D", "FORWARD"], &JUMP[..]].concat()).await.is_ok() {}
    if ask(&program, &["-S", CHAIN]).await.is_err() {
        return Ok(());
    }
    for verb in ["-F", "-X"] {
        let done = ask(&program, &[verb, CHAIN]).await;
        done.map_err(|source| Error::Iptables { action: "remove", program: program.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_own_rules() {
        let networks = ["10.42.1.0/24", "fd42:1::/64"].map(|text| text.parse().unwrap()).into();
        assert_eq!(
            rules(true, &networks),
            ["-A KILO-FORWARD -s 10.42.1.0/24 -j ACCEPT", "-A KILO-FORWARD -d 10.42.1.0/24 -j ACCEPT"]
        );
        assert_eq!(rules(false, &networks).len(), 2);
    }

    #[test]
    fn the_newer_iptables_is_told_by_its_chain() {
        let chains = |name: &str, hook: &str| {
            serde_json::json!({"nftables": [{"metainfo": {}},
            {"chain": {"family": "ip", "table": "filter", "name": name, "hook": hook}}]})
        };
        let [_, _, v4, v6] = Variant::ALL;
        assert!(v4.is_in_use(&chains("FORWARD", "forward")) && !v6.is_in_use(&chains("FORWARD", "forward")));
        assert!(!v4.is_in_use(&chains("forward", "forward")) && !v4.is_in_use(&chains("FORWARD", "input")));
        assert!(!v4.is_in_use(&Value::Null));
    }
}
