//! Other implementations of WireGuard, as programs that are set up with `wg`.

use super::{Host, Process, SOON, wait_until};

/// How often to try to start a daemon.
const ATTEMPTS: usize = 3;

/// How a daemon is started.
pub struct Implementation {
    pub name: String,
    pub program: String,
    pub arguments: &'static [&'static str],
}

impl Implementation {
    /// One of those whose command line is known.
    pub fn other(name: &str, path: &str) -> Option<Self> {
        let arguments: &[&str] = match name {
            "wireguard-go" => &["-f"],
            "boringtun-cli" | "gotatun-cli" => &["--foreground", "--disable-drop-privileges"],
            _ => return None,
        };
        Some(Self { name: name.to_owned(), program: path.to_owned(), arguments })
    }

    /// Those that `KG_WIREGUARD_PEERS` names as `NAME=PATH`, separated by white space, as `scripts/wireguard-peers`
    /// prints them; else the wireguard-go that is installed, if one is.
    pub fn others() -> Vec<Self> {
        let named = std::env::var("KG_WIREGUARD_PEERS").unwrap_or_default();
        let one = |text: &str| text.split_once('=').and_then(|(name, path)| Self::other(name, path));
        let named: Vec<_> = named
            .split_whitespace()
            .map(|text| one(text).unwrap_or_else(|| panic!("KG_WIREGUARD_PEERS: {text}: not a known NAME=PATH")))
            .collect();
        if named.is_empty() { Self::installed().into_iter().collect() } else { named }
    }

    fn installed() -> Option<Self> {
        std::process::Command::new("wireguard-go").arg("--version").output().ok()?;
        Self::other("wireguard-go", "wireguard-go")
    }

    /// Starts a daemon on a host, with the interface [`Host::unique_interface`], which is not set up. Some end by
    /// themselves at that now and then, which is not what is tested here.
    pub fn start(&self, host: &Host) -> Process {
        let interface = host.unique_interface.as_str();
        let program = [self.program.as_str()];
        for attempt in 1..=ATTEMPTS {
            let mut daemon = host.spawn(&[&program, self.arguments, &[interface]].concat());
            let mut answers = false;
            wait_until("the daemon answers or ends", SOON, || {
                answers = host.try_run(&["wg", "show", interface]).status.success();
                answers || daemon.has_ended()
            });
            if answers {
                return daemon;
            }
            eprintln!("{} ended at start {attempt} of {ATTEMPTS}: {}", self.name, daemon.finish());
        }
        panic!("{} does not start", self.name);
    }
}
