//! WireGuard's configuration files, as `wg setconf` and `wg showconf` use them (wg(8), CONFIGURATION
//! FILE FORMAT), written in upstream's order of keys.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::{Endpoint, PublicKey, Seconds, SecretKey, warning::excerpt};

/// The `[Interface]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSection {
    /// Left out of what is shown to people.
    pub private_key: Option<SecretKey>,
    /// UDP port.
    pub listen_port: Option<u16>,
    /// Firewall mark of outgoing packets, 0 for none.
    pub fwmark: Option<u32>,
}

/// A `[Peer]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSection {
    /// Prefixes that are reached through the peer.
    pub allowed_ips: Vec<IpNet>,
    /// Where the peer is reached.
    pub endpoint: Option<Endpoint>,
    /// Seconds between keepalives, 0 for none.
    pub persistent_keepalive: Seconds,
    /// Symmetric key mixed into the handshake.
    pub preshared_key: Option<SecretKey>,
    /// The peer's public key.
    pub public_key: PublicKey,
}

/// A configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// The `[Interface]` section, if there is one.
    pub interface: Option<InterfaceSection>,
    /// The `[Peer]` sections in order.
    pub peers: Vec<PeerSection>,
}

/// Why a text is no configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct IniError {
    /// Counted from 1.
    pub line: usize,
    /// What was expected.
    pub reason: String,
}

impl Conf {
    /// The file's text. Secrets that are set are in it.
    pub fn render(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        // Writing to a String cannot fail.
        _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        if let Some(interface) = &self.interface {
            writeln!(out, "[Interface]")?;
            if let Some(key) = &interface.private_key {
                writeln!(out, "PrivateKey = {}", *key.reveal())?;
            }
            if let Some(port) = interface.listen_port {
                writeln!(out, "ListenPort = {port}")?;
            }
            if let Some(mark) = interface.fwmark {
                writeln!(out, "FwMark = {mark}")?;
            }
        }
        for (index, peer) in self.peers.iter().enumerate() {
            if index > 0 || self.interface.is_some() {
                writeln!(out)?;
            }
            peer.write(out)?;
        }
        Ok(())
    }

    /// Reads a file. Keys and section names are case-insensitive, `#` starts a comment.
    pub fn parse(text: &str) -> Result<Self, IniError> {
        let mut parser = Parser::default();
        for (index, line) in text.lines().enumerate() {
            parser.line(line).map_err(|reason| IniError { line: index + 1, reason })?;
        }
        parser.finish_peer().map_err(|reason| IniError { line: text.lines().count(), reason })?;
        Ok(parser.conf)
    }
}

impl From<PeerSection> for Conf {
    fn from(peer: PeerSection) -> Self {
        Self { interface: None, peers: vec![peer] }
    }
}

impl PeerSection {
    /// Adds `more` allowed IPs; each is listed once, at its first place.
    pub fn allow(&mut self, more: impl IntoIterator<Item = IpNet>) {
        self.allowed_ips.extend(more);
        let mut seen = BTreeSet::new();
        self.allowed_ips.retain(|net| seen.insert(*net));
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "[Peer]")?;
        if !self.allowed_ips.is_empty() {
            let ips: Vec<String> = self.allowed_ips.iter().map(IpNet::to_string).collect();
            writeln!(out, "AllowedIPs = {}", ips.join(", "))?;
        }
        if let Some(endpoint) = &self.endpoint {
            writeln!(out, "Endpoint = {endpoint}")?;
        }
        writeln!(out, "PersistentKeepalive = {}", self.persistent_keepalive.0)?;
        if let Some(key) = &self.preshared_key {
            writeln!(out, "PresharedKey = {}", *key.reveal())?;
        }
        writeln!(out, "PublicKey = {}", self.public_key)
    }
}

/// A `[Peer]` section whose public key may not have been read yet.
#[derive(Default)]
struct Draft {
    allowed_ips: Vec<IpNet>,
    endpoint: Option<Endpoint>,
    persistent_keepalive: Seconds,
    preshared_key: Option<SecretKey>,
    public_key: Option<PublicKey>,
}

#[derive(Default)]
enum Section {
    #[default]
    None,
    Interface,
    Peer(Draft),
}

#[derive(Default)]
struct Parser {
    conf: Conf,
    section: Section,
}

fn value<T: std::str::FromStr<Err: fmt::Display>>(key: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|why| format!("{key}: {}: {why}", excerpt(text)))
}

/// A secret's text is not repeated in an error.
fn secret(key: &str, text: &str) -> Result<SecretKey, String> {
    text.parse().map_err(|why| format!("{key}: {why}"))
}

/// An unknown key as an error may show it: what is not a short word may be a secret, because
/// base64 ends in the sign that ends a key.
fn shown(key: &str) -> String {
    let is_word = key.len() <= 24 && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { excerpt(key) } else { "a key".to_owned() }
}

fn fwmark(key: &str, text: &str) -> Result<u32, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).map_err(|why| format!("{key}: {}: {why}", excerpt(text))),
        None if text == "off" => Ok(0),
        None => value(key, text),
    }
}

impl Parser {
    /// Errors do not repeat the line: it may hold a secret.
    fn line(&mut self, line: &str) -> Result<(), String> {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            return Ok(());
        }
        if line.starts_with('[') {
            self.finish_peer()?;
            self.section = match line.to_ascii_lowercase().as_str() {
                "[interface]" => Section::Interface,
                "[peer]" => Section::Peer(Draft::default()),
                _ => return Err("expected [Interface] or [Peer]".to_owned()),
            };
            return Ok(());
        }
        let (key, text) = line.split_once('=').ok_or("expected key = value")?;
        self.entry(key.trim(), text.trim())
    }

    fn entry(&mut self, key: &str, text: &str) -> Result<(), String> {
        match &mut self.section {
            Section::None => Err(format!("{}: outside of any section", shown(key))),
            Section::Interface => self.conf.interface.get_or_insert_default().entry(key, text),
            Section::Peer(draft) => draft.entry(key, text),
        }
    }

    fn finish_peer(&mut self) -> Result<(), String> {
        match std::mem::take(&mut self.section) {
            Section::None => {}
            Section::Interface => _ = self.conf.interface.get_or_insert_default(),
            Section::Peer(draft) => self.conf.peers.push(draft.finish()?),
        }
        Ok(())
    }
}

impl InterfaceSection {
    fn entry(&mut self, key: &str, text: &str) -> Result<(), String> {
        match key.to_ascii_lowercase().as_str() {
            "privatekey" => self.private_key = Some(secret(key, text)?),
            "listenport" => self.listen_port = Some(value(key, text)?),
            "fwmark" => self.fwmark = Some(fwmark(key, text)?),
            _ => return Err(format!("{}: unknown key in [Interface]", shown(key))),
        }
        Ok(())
    }
}

impl Draft {
    fn entry(&mut self, key: &str, text: &str) -> Result<(), String> {
        match key.to_ascii_lowercase().as_str() {
            "allowedips" => {
                for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                    let net = match part.parse() {
                        Ok(ip) => crate::address::single(ip),
                        Err(_) => value::<IpNet>(key, part)?,
                    };
                    self.allowed_ips.push(net.trunc());
                }
            }
            "endpoint" => self.endpoint = Some(value(key, text)?),
            "persistentkeepalive" if text == "off" => self.persistent_keepalive = Seconds(0),
            "persistentkeepalive" => self.persistent_keepalive = Seconds(value(key, text)?),
            "presharedkey" => self.preshared_key = Some(secret(key, text)?),
            "publickey" => self.public_key = Some(value(key, text)?),
            _ => return Err(format!("{}: unknown key in [Peer]", shown(key))),
        }
        Ok(())
    }

    fn finish(self) -> Result<PeerSection, String> {
        Ok(PeerSection {
            allowed_ips: self.allowed_ips,
            endpoint: self.endpoint,
            persistent_keepalive: self.persistent_keepalive,
            preshared_key: self.preshared_key,
            public_key: self.public_key.ok_or("[Peer] without PublicKey")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    #[test]
    fn the_text_is_upstreams() {
        let conf = Conf {
            interface: Some(InterfaceSection { listen_port: Some(51820), ..InterfaceSection::default() }),
            peers: vec![
                PeerSection {
                    allowed_ips: vec!["10.42.1.0/24".parse().unwrap(), "10.4.0.1/32".parse().unwrap()],
                    endpoint: Some("gw.example.com:51820".parse().unwrap()),
                    persistent_keepalive: Seconds(10),
                    preshared_key: Some(KEY.parse().unwrap()),
                    public_key: KEY.parse().unwrap(),
                },
                PeerSection {
                    allowed_ips: vec![],
                    endpoint: None,
                    persistent_keepalive: Seconds(0),
                    preshared_key: None,
                    public_key: KEY.parse().unwrap(),
                },
            ],
        };
        let text = format!(
            "[Interface]\nListenPort = 51820\n\n\
             [Peer]\nAllowedIPs = 10.42.1.0/24, 10.4.0.1/32\nEndpoint = gw.example.com:51820\nPersistentKeepalive = 10\n\
             PresharedKey = {KEY}\nPublicKey = {KEY}\n\n\
             [Peer]\nPersistentKeepalive = 0\nPublicKey = {KEY}\n"
        );
        assert_eq!(*conf.render(), text);
        assert_eq!(Conf::parse(&text), Ok(conf));
    }

    #[test]
    fn what_wg_writes_is_read() {
        let text = format!(
            "# made by hand\n[interface]\nprivatekey={KEY}\nFwMark = 0x10\n\n[PEER]\nPublicKey = {KEY} # a comment\n\
             AllowedIPs = 10.0.0.1\nAllowedIPs = fd00::5/64,\nPersistentKeepalive = off"
        );
        let conf = Conf::parse(&text).unwrap();
        assert_eq!(conf.interface.unwrap().fwmark, Some(16));
        assert_eq!(conf.peers[0].allowed_ips, ["10.0.0.1/32".parse().unwrap(), "fd00::/64".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn errors_name_the_line_and_never_a_secret() {
        for (text, expected) in [
            ("x = 1", "line 1: \"x\": outside of any section"),
            ("[Peer]\n", "line 1: [Peer] without PublicKey"),
            ("[Interface]\nPrivateKey = hunter2", "line 2: PrivateKey: expected base64 of 32 bytes"),
            (
                "[Interface]\nListenPort = 70000",
                "line 2: ListenPort: \"70000\": number too large to fit in target type",
            ),
            ("[Interface]\nAddress = 10.0.0.1/24", "line 2: \"Address\": unknown key in [Interface]"),
            ("[Router]", "line 1: expected [Interface] or [Peer]"),
            ("[Peer]\nhello", "line 2: expected key = value"),
            (&format!("[Interface]\nPrivateKey: {KEY}"), "line 2: a key: unknown key in [Interface]"),
            (KEY, "line 1: a key: outside of any section"),
        ] {
            assert_eq!(Conf::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
