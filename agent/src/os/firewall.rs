//! The nftables table `inet kilo`: applied in one transaction by the `nft` program (nft(8)), and
//! compared with what was applied, so that it comes back when someone flushes or edits it.

use serde_json::Value;
use topology::{Firewall, firewall::TABLE};

use super::{
    Error,
    program::{self, Refused},
};

/// The table, and what it should be.
#[derive(Debug, Default)]
pub struct Table {
    applied: Option<Applied>,
}

#[derive(Debug)]
struct Applied {
    firewall: Firewall,
    /// How nft lists it. To be compared with later listings only: it is not what was written.
    listing: String,
}

impl Table {
    /// Makes the table `wanted`, unless it is; returns whether it had to be written.
    pub async fn set(&mut self, wanted: &Firewall) -> Result<bool, Error> {
        if self.was_set(wanted) && self.in_place().await? {
            return Ok(false);
        }
        self.applied = None;
        run("apply", &["-f", "-"], &wanted.ruleset()).await?;
        let listing = list().await?;
        self.applied = Some(Applied { firewall: wanted.clone(), listing });
        Ok(true)
    }

    /// Whether the table was made `wanted` last; somebody may have changed it since.
    pub fn was_set(&self, wanted: &Firewall) -> bool {
        self.applied.as_ref().is_some_and(|applied| applied.firewall == *wanted)
    }

    /// Whether the kernel's table is still as it was applied.
    pub async fn in_place(&self) -> Result<bool, Error> {
        let Some(applied) = &self.applied else { return Ok(false) };
        match list().await {
            Ok(listing) => Ok(listing == applied.listing),
            // There is no table.
            Err(Error::Firewall { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the table, whether or not it exists.
    pub async fn remove(&mut self) -> Result<(), Error> {
        self.applied = None;
        run("remove", &["-f", "-"], &Firewall::removal()).await.map(drop)
    }
}

/// The table in the program's notation, numbers unresolved.
async fn list() -> Result<String, Error> {
    run("list", &["-nn", "list", "table", "inet", TABLE], "").await
}

/// The chains, of whichever table, that drop what they are given to forward unless a rule accepts it, as
/// `family table chain`; `None` if they cannot be told. Those of the older iptables (iptables-legacy) are not
/// among them.
pub async fn forward_drops() -> Option<Vec<String>> {
    drops(&run("list", &["-j", "list", "chains"], "").await.ok()?)
}

/// The base chains of `listing` (libnftables-json(5)) with hook forward and policy drop.
fn drops(listing: &str) -> Option<Vec<String>> {
    let listing: Value = serde_json::from_str(listing).ok()?;
    let chains = listing["nftables"].as_array()?.iter().map(|object| &object["chain"]);
    let dropping = chains.filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop");
    let word = |chain: &Value, key: &str| chain[key].as_str().unwrap_or("?").to_owned();
    Some(dropping.map(|chain| ["family", "table", "name"].map(|key| word(chain, key)).join(" ")).collect())
}

/// Runs nft with `input` and returns its output.
async fn run(action: &'static str, arguments: &[&str], input: &str) -> Result<String, Error> {
    program::run("nft", arguments, input).await.map_err(|refused| match refused {
        Refused::Missing => Error::NoNft,
        Refused::Broken(source) => Error::Nft { action, source },
        Refused::Said(message) => Error::Firewall { action, message },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_drop_what_is_forwarded_are_found() {
        let listing = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "kilo", "name": "forward", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER"}}]}"#;
        assert_eq!(drops(listing), Some(vec!["ip filter FORWARD".to_owned()]));
        assert_eq!(drops("nonsense"), None);
    }
}
