//! The key file and the CNI configuration. Neither needs a namespace.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use agent::os::{
    cni, install,
    key::{self, Origin},
};
use topology::cni::PodNetwork;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_key_is_made_once_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kilo/key");
    let made = key::load(&path).unwrap();
    assert_eq!(made.origin, Origin::Made);
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(fs::read_to_string(&path).unwrap().len(), 45, "base64 of 32 bytes and a line feed");
    assert_eq!(names(path.parent().unwrap()), ["key"]);
    let read = key::load(&path).unwrap();
    assert_eq!((read.origin, read.exposed), (Origin::Read, false));
    assert_eq!((read.public, &read.secret), (made.public, &made.secret));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(key::load(&path).unwrap().exposed);
    assert_eq!(mode(&path), 0o644, "whoever did that may have a reason");
    let other = key::load(&directory.path().join("other")).unwrap();
    assert_ne!(other.public, made.public);
}

#[test]
fn somebody_elses_key_is_only_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("laptop.key");
    let error = key::read_existing(&path).unwrap_err().to_string();
    assert!(error.contains("laptop.key") && error.contains("No such file"), "{error}");
    fs::write(&path, "not a key").unwrap();
    let error = key::read_existing(&path).unwrap_err().to_string();
    assert!(error.contains("laptop.key: no WireGuard private key: expected base64"), "{error}");
    assert_eq!(names(directory.path()), ["laptop.key"]);
    let made = key::generate().unwrap();
    fs::write(&path, made.secret.reveal().as_bytes()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let read = key::read_existing(&path).unwrap();
    assert_eq!((read.public, &read.secret, read.exposed), (made.public, &made.secret, true));
    assert_ne!(key::generate().unwrap().public, made.public);
}

#[test]
fn a_broken_key_is_kept_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let huge = vec![b'A'; 1 << 20];
    let broken: [&[u8]; 4] = [b"", b"not a key", &[0xff; 44], &huge];
    for (n, text) in (1..).zip(broken) {
        fs::write(&path, text).unwrap();
        let aside = directory.path().join(format!("key.broken-{n}"));
        assert_eq!(key::load(&path).unwrap().origin, Origin::Remade(aside.clone()));
        assert_eq!(fs::read(&aside).unwrap(), text);
        assert_eq!(key::load(&path).unwrap().origin, Origin::Read);
    }
}

#[test]
fn a_key_that_cannot_be_read_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    fs::create_dir(&path).unwrap();
    let error = key::load(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");
    assert_eq!(names(directory.path()), ["key"]);
}

const CONFLIST: &str = r#"{
  "cniVersion": "0.3.1", "name": "kilo", "zzz": {"b": 1, "a": [2.50, null]},
  "plugins": [
    {"type": "bridge", "unknown": "kept", "ipam": {"type": "host-local", "dataDir": "/run/x"}},
    {"type": "portmap", "snat": true}
  ]
}"#;

fn network(texts: &[&str]) -> PodNetwork {
    PodNetwork { cidrs: texts.iter().map(|text| text.parse().unwrap()).collect(), mtu: 1420 }
}

#[test]
fn the_conflist_gets_ranges_and_mtu_and_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("10-kilo.conflist");
    fs::write(&path, CONFLIST).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert!(!cni::keep(&path, &network(&[])).unwrap(), "no pod CIDR, no change");
    assert_eq!(fs::read_to_string(&path).unwrap(), CONFLIST);
    let both = network(&["10.42.1.0/24", "fd42:1::/64"]);
    assert!(cni::keep(&path, &both).unwrap());
    assert!(!cni::keep(&path, &both).unwrap(), "it is so already");
    assert_eq!(mode(&path), 0o666, "whatever the umask");
    assert_eq!(names(directory.path()), ["10-kilo.conflist"]);
    let text = fs::read_to_string(&path).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ipam = kept["plugins"][0]["ipam"].as_object_mut().unwrap();
    let ranges = ipam.remove("ranges").unwrap().to_string();
    assert_eq!(ranges, r#"[[{"subnet":"10.42.1.0/24"}],[{"subnet":"fd42:1::/64"}]]"#);
    let bridge = kept["plugins"][0].as_object_mut().unwrap();
    assert_eq!(bridge.remove("mtu").unwrap(), 1420);
    assert_eq!(bridge.remove("kilo.squat.ai/mtu").unwrap(), 1420);
    // Compared as text: the order of fields counts too.
    assert_eq!(kept.to_string(), serde_json::from_str::<serde_json::Value>(CONFLIST).unwrap().to_string());
    assert!(cni::keep(&path, &network(&["10.42.1.0/24"])).unwrap());
}

#[test]
fn a_link_to_the_conflist_stays_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("10-kilo.conflist"), directory.path().join("real"));
    fs::write(&target, CONFLIST).unwrap();
    symlink("real", &path).unwrap();
    assert!(cni::keep(&path, &network(&["10.42.1.0/24"])).unwrap());
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("10.42.1.0/24"));
}

#[test]
fn a_conflist_that_is_missing_or_broken_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("10-kilo.conflist");
    let keep = || cni::keep(&path, &network(&["10.42.1.0/24"])).unwrap_err().to_string();
    assert!(keep().starts_with(&format!("cannot read {}: ", path.display())));
    fs::write(&path, "{").unwrap();
    assert!(keep().starts_with(&format!("cannot keep the pod ranges in {}: not JSON: ", path.display())));
    assert_eq!(fs::read_to_string(&path).unwrap(), "{");
}

#[test]
fn a_cni_network_is_installed_beside_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for name in ["plugins", "bin", "net.d"] {
        fs::create_dir(at(name)).unwrap();
    }
    let list = r#"{"name":"kilo","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#;
    fs::write(at("plugins/bridge"), "new").unwrap();
    fs::write(at("bin/bridge"), "old").unwrap();
    fs::write(at("bin/other"), "other").unwrap();
    fs::write(at("list"), list).unwrap();
    fs::write(at("net.d/05-first.conf"), "{}").unwrap();
    fs::write(at("net.d/00-multus.conf"), r#"{"type":"multus"}"#).unwrap();
    fs::write(at("net.d/99-last.conf"), "{}").unwrap();
    let args = install::Args {
        plugins: at("plugins"),
        to: at("bin"),
        configuration: at("list"),
        cni_path: at("net.d/10-kilo.conflist"),
    };
    install::install(&args).unwrap();
    assert_eq!((fs::read_to_string(at("bin/bridge")).unwrap().as_str(), mode(&at("bin/bridge"))), ("new", 0o755));
    assert_eq!(names(&at("bin")), ["bridge", "other"]);
    let files = ["00-multus.conf", "05-first.conf.kilo-aside", "10-kilo.conflist", "99-last.conf"];
    assert_eq!(names(&at("net.d")), files);
    // What the agent has added since stays, and nothing is written a second time.
    let network = PodNetwork { cidrs: vec!["10.42.1.0/24".parse().unwrap()], mtu: 1420 };
    assert!(cni::keep(&args.cni_path, &network).unwrap());
    let before = fs::metadata(&args.cni_path).unwrap().ino();
    install::install(&args).unwrap();
    assert_eq!(fs::metadata(&args.cni_path).unwrap().ino(), before);
    assert!(fs::read_to_string(&args.cni_path).unwrap().contains("10.42.1.0/24"));

    fs::write(at("list"), "{}").unwrap();
    let error = install::install(&args).unwrap_err().to_string();
    assert!(error.contains(at("list").to_str().unwrap()), "{error}");
    let error = install::install(&install::Args { to: at("nowhere"), ..args }).unwrap_err().to_string();
    assert!(error.contains("nowhere/bridge"), "{error}");
}
