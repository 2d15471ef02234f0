//! Kernel settings, from /proc/sys of the own network namespace.

use std::{collections::BTreeMap, fs, path::Path};

/// The settings that matter for the host and for each of `interfaces`; those that cannot be read are
/// left out.
pub(super) fn read(interfaces: &[String]) -> BTreeMap<String, i64> {
    let host = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter"];
    let of_each = interfaces.iter().map(|interface| format!("net.ipv4.conf.{interface}.rp_filter"));
    let names = host.into_iter().map(str::to_owned).chain(of_each);
    names.filter_map(|name| Some((name.clone(), value(&name)?))).collect()
}

fn value(name: &str) -> Option<i64> {
    // An interface's name may have dots, which sysctl(8) writes as slashes; here they stay as they are.
    let path = match name.strip_prefix("net.ipv4.conf.").and_then(|rest| rest.rsplit_once('.')) {
        Some((interface, key)) => Path::new("/proc/sys/net/ipv4/conf").join(interface).join(key),
        None => Path::new("/proc/sys").join(name.replace('.', "/")),
    };
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_left_out() {
        let found = read(&["lo".to_owned(), "no.such".to_owned()]);
        assert!(found.contains_key("net.ipv4.ip_forward") && found.contains_key("net.ipv4.conf.lo.rp_filter"));
        assert!(!found.keys().any(|name| name.contains("no.such")), "{found:?}");
    }
}
