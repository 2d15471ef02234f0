//! What the agent keeps in a CNI network configuration list (CNI spec 1.0.0): the node's pod CIDRs, as
//! host-local's `ranges`, and the MTU of the pods' interfaces. All else is the person's, also in our plugin:
//! others chain after it (portmap, Istio's) or keep there what only they know.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// The field beside `mtu` that says what the agent has put there: another value is a person's. Plugins pass
/// over fields they do not know.
pub const OWN_MTU: &str = "kilo.squat.ai/mtu";

/// Plugins whose `mtu` may be set without knowing more: their pods are behind a veth pair of their own. Those
/// that divide another interface refuse an MTU that is larger than that one's.
const MTU_PLUGINS: [&str; 2] = ["bridge", "ptp"];

/// What pods of a node are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// Where their addresses come from.
    pub cidrs: Vec<IpNet>,
    /// What fits into every tunnel that their packets may take, in bytes.
    pub mtu: u32,
}

/// Why a file cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The text is no JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// There is no list of plugins.
    #[error("plugins: expected a list")]
    NoPlugins,
    /// A plugin does not say which program it is.
    #[error("type: expected the name of a plugin")]
    NoType,
    /// No plugin has an `ipam` object to put the ranges in.
    #[error("plugins: none has an ipam object")]
    NoIpam,
}

/// `conflist` with the `ipam.ranges` of each plugin that has an `ipam` set to the pod CIDRs, and with the MTU
/// where the person has not set one; all else as it was. `None` when there is nothing to change.
pub fn with_network(conflist: &str, network: &PodNetwork) -> Result<Option<String>, CniError> {
    let mut list: Value = serde_json::from_str(conflist)?;
    let mut changed = false;
    for plugin in attaching(&mut list)? {
        changed |= set_ranges(plugin, &network.cidrs);
        changed |= set_mtu(plugin, network.mtu);
    }
    Ok(if changed { Some(serde_json::to_string_pretty(&list)? + "\n") } else { None })
}

/// The plugins of a configuration list that give addresses; there is at least one.
fn attaching(list: &mut Value) -> Result<Vec<&mut Map<String, Value>>, CniError> {
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut).ok_or(CniError::NoPlugins)?;
    let plugins = plugins.iter_mut().filter_map(Value::as_object_mut);
    let attaching: Vec<_> = plugins.filter(|plugin| plugin.get("ipam").is_some_and(Value::is_object)).collect();
    if attaching.is_empty() { Err(CniError::NoIpam) } else { Ok(attaching) }
}

fn set_ranges(plugin: &mut Map<String, Value>, cidrs: &[IpNet]) -> bool {
    let ranges: Value = cidrs.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
    let ipam = plugin.get_mut("ipam").and_then(Value::as_object_mut);
    ipam.is_some_and(|ipam| set(ipam, "ranges", ranges))
}

fn set_mtu(plugin: &mut Map<String, Value>, mtu: u32) -> bool {
    let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_ours = plugin.get("mtu").is_none_or(|present| plugin.get(OWN_MTU) == Some(present));
    if !is_ours || !MTU_PLUGINS.contains(&kind) {
        return false;
    }
    set(plugin, "mtu", mtu.into()) | set(plugin, OWN_MTU, mtu.into())
}

/// Whether it was another value before.
fn set(object: &mut Map<String, Value>, key: &str, value: Value) -> bool {
    let changed = object.get(key) != Some(&value);
    if changed {
        object.insert(key.to_owned(), value);
    }
    changed
}

/// The text of the file that holds the configuration `wanted` from now on, where `present` stands now; `None` if it may
/// stay. What the agent has put there is kept, so that pods can be plugged in at once and not only when it has looked.
/// So are plugins of others, in their order behind ours: those that are not `own`, which are installed with ours and may
/// have been wanted before.
pub fn installed(wanted: &str, present: Option<&str>, own: &[String]) -> Result<Option<String>, CniError> {
    let present: Option<Value> = present.and_then(|text| serde_json::from_str(text).ok());
    let plugins = present.as_ref().and_then(|list| list["plugins"].as_array());
    let mut list: Value = serde_json::from_str(wanted)?;
    for plugin in attaching(&mut list)? {
        let same = plugins.into_iter().flatten().find(|other| plugin.get("type") == other.get("type"));
        if let Some(other) = same {
            keep_ours(plugin, other);
        }
    }
    if let Some(all) = list["plugins"].as_array_mut() {
        let kinds: Vec<Value> = all.iter().map(|plugin| plugin["type"].clone()).collect();
        let is_others = |plugin: &&Value| {
            let kind = plugin["type"].as_str();
            kind.is_some_and(|kind| !own.iter().any(|own| own == kind)) && !kinds.contains(&plugin["type"])
        };
        all.extend(plugins.into_iter().flatten().filter(is_others).cloned());
    }
    Ok(if present.as_ref() == Some(&list) { None } else { Some(serde_json::to_string_pretty(&list)? + "\n") })
}

/// Takes what [`with_network`] has put into `present` over to `plugin`.
fn keep_ours(plugin: &mut Map<String, Value>, present: &Value) {
    let (ranges, mtu) = (&present["ipam"]["ranges"], &present[OWN_MTU]);
    if let Some(ipam) = plugin.get_mut("ipam").and_then(Value::as_object_mut).filter(|_| ranges.is_array()) {
        ipam.insert("ranges".to_owned(), ranges.clone());
    }
    if mtu.is_number() && present["mtu"] == *mtu && !plugin.contains_key("mtu") {
        plugin.insert("mtu".to_owned(), mtu.clone());
        plugin.insert(OWN_MTU.to_owned(), mtu.clone());
    }
}

/// Those of the files called `names` in one directory that container runtimes would prefer to the one called `own`:
/// they take the first by name.
pub fn preferred_to(own: &str, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| is_configuration(name) && name.as_str() < own);
    names.sort();
    names
}

/// Whether container runtimes take a file of this name for a network configuration (libcni, `ConfFiles`).
pub fn is_configuration(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// The types of the plugins of the network configuration in the file called `name`: of a list, or of the
/// single one that a file other than a .conflist has.
pub fn plugin_types(name: &str, text: &str) -> Result<Vec<String>, CniError> {
    let configuration: Value = serde_json::from_str(text)?;
    let kind = |plugin: &Value| plugin.get("type").and_then(Value::as_str).map(str::to_owned).ok_or(CniError::NoType);
    if !name.ends_with(".conflist") {
        return Ok(vec![kind(&configuration)?]);
    }
    let plugins = configuration.get("plugins").and_then(Value::as_array).filter(|plugins| !plugins.is_empty());
    plugins.ok_or(CniError::NoPlugins)?.iter().map(kind).collect()
}

/// Whether a configuration with these plugins reads another one for the pod network, which may well be ours: Multus,
/// as one program or with a daemon, and CNI-Genie.
pub fn calls_others(plugins: &[String]) -> bool {
    matches!(plugins, [plugin] if ["multus", "multus-shim", "genie"].contains(&plugin.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"0.3.1","name":"kilo","x":{"b":1,"a":2},"plugins":[
        {"name":"kubernetes","type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local","dataDir":"/d"}},{"type":"portmap"}]}"#;

    fn network(cidrs: &[&str], mtu: u32) -> PodNetwork {
        PodNetwork { cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(), mtu }
    }

    #[test]
    fn ranges_and_mtu_are_set_once_and_the_rest_is_kept_in_order() {
        let both = network(&["10.42.1.0/24", "fd42:1::/64"], 1420);
        let text = with_network(LIST, &both).unwrap().unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let bridge = value["plugins"][0].as_object_mut().unwrap();
        assert_eq!((bridge.remove("mtu"), bridge.remove(OWN_MTU)), (Some(json!(1420)), Some(json!(1420))));
        let ipam = bridge["ipam"].as_object_mut().unwrap();
        assert_eq!(ipam.remove("ranges").unwrap(), json!([[{"subnet": "10.42.1.0/24"}], [{"subnet": "fd42:1::/64"}]]));
        assert_eq!(value.to_string(), serde_json::from_str::<Value>(LIST).unwrap().to_string());
        assert!(with_network(&text, &both).unwrap().is_none());
        for other in [network(&["10.42.1.0/24"], 1420), network(&["10.42.1.0/24", "fd42:1::/64"], 1370)] {
            let changed: Value = serde_json::from_str(&with_network(&text, &other).unwrap().unwrap()).unwrap();
            assert_eq!(changed["plugins"][0]["mtu"], other.mtu);
        }
    }

    #[test]
    fn a_persons_mtu_stays_and_other_plugins_get_none() {
        for (plugin, expected) in [
            (json!({"type": "bridge", "mtu": 1500, "ipam": {}}), json!(1500)),
            (json!({"type": "bridge", "mtu": 0, "ipam": {}}), json!(0)),
            (json!({"type": "bridge", "mtu": 1500, OWN_MTU: 1500, "ipam": {}}), json!(1420)),
            (json!({"type": "bridge", "mtu": 1300, OWN_MTU: 1500, "ipam": {}}), json!(1300)),
            (json!({"type": "bridge", OWN_MTU: 1500, "ipam": {}}), json!(1420)),
            (json!({"type": "ptp", "ipam": {}}), json!(1420)),
            (json!({"type": "macvlan", "master": "eth0", "ipam": {}}), Value::Null),
            (json!({"ipam": {}}), Value::Null),
        ] {
            let list = json!({"plugins": [plugin]}).to_string();
            let text = with_network(&list, &network(&["10.42.1.0/24"], 1420)).unwrap().unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["plugins"][0]["mtu"], expected, "{plugin}");
            assert!(with_network(&text, &network(&["10.42.1.0/24"], 1420)).unwrap().is_none());
        }
    }

    #[test]
    fn a_new_configuration_keeps_what_the_agent_has_put_there() {
        let network = network(&["10.42.1.0/24"], 1420);
        let present = with_network(LIST, &network).unwrap().unwrap();
        let installed = |wanted: &str, present| installed(wanted, present, &[]);
        assert_eq!(installed(LIST, Some(&present)).unwrap(), None);
        let new = installed(&LIST.replace("kube-bridge", "br0"), Some(&present)).unwrap().unwrap();
        assert!(new.contains("\"br0\"") && with_network(&new, &network).unwrap().is_none(), "{new}");
        let new = installed(&LIST.replace("\"ipam\"", "\"mtu\":1300,\"ipam\""), Some(&present)).unwrap().unwrap();
        assert!(new.contains("1300") && !new.contains("1420"), "{new}");
        for present in [None, Some("{"), Some("{}"), Some(r#"{"plugins":[{"type":"bridge","ipam":{"ranges":"x"}}]}"#)] {
            let new = installed(LIST, present).unwrap().unwrap();
            assert!(!new.contains("ranges"), "{present:?}: {new}");
        }
        assert!(matches!(installed("{}", Some(&present)), Err(CniError::NoPlugins)));
    }

    #[test]
    fn plugins_of_others_stay_behind_ours_and_those_that_were_ours_go() {
        let plugins = |list: &str| plugin_types("a.conflist", list).unwrap();
        let present = LIST.replace(r#"{"type":"portmap"}"#, r#"{"type":"portmap"},{"type":"istio-cni","x":1},{"y":2}"#);
        let own = ["bridge", "portmap", "bandwidth"].map(str::to_owned);
        assert_eq!(installed(&present, Some(&present), &own).unwrap(), None);
        let present = present.replace(r#",{"y":2}"#, r#",{"type":"bandwidth"},{"type":"linkerd-cni"}"#);
        let new = installed(LIST, Some(&present), &own).unwrap().unwrap();
        assert_eq!(plugins(&new), ["bridge", "portmap", "istio-cni", "linkerd-cni"]);
        assert!(serde_json::from_str::<Value>(&new).unwrap()["plugins"][2]["x"] == 1);
        assert_eq!(installed(LIST, Some(&new), &own).unwrap(), None, "again changes nothing");
        let without_portmap = LIST.replace(r#",{"type":"portmap"}"#, "");
        let new = installed(&without_portmap, Some(&new), &own).unwrap().unwrap();
        assert_eq!(plugins(&new), ["bridge", "istio-cni", "linkerd-cni"]);
    }

    #[test]
    fn the_first_by_name_is_preferred() {
        let names = ["10-kilo.conflist", "99-loopback.conf", "10-flannel.conflist", "05-x.bak", "00-a.conf"];
        let names = names.map(str::to_owned).into();
        assert_eq!(preferred_to("10-kilo.conflist", names), ["00-a.conf", "10-flannel.conflist"]);
    }

    #[test]
    fn plugins_are_found_in_lists_and_alone() {
        assert_eq!(plugin_types("a.conflist", LIST).unwrap(), ["bridge", "portmap"]);
        assert_eq!(plugin_types("a.conf", r#"{"type":"ptp"}"#).unwrap(), ["ptp"]);
        assert!(matches!(plugin_types("a.json", LIST), Err(CniError::NoType)));
        assert!(matches!(plugin_types("a.conflist", r#"{"plugins":[]}"#), Err(CniError::NoPlugins)));
        assert!(matches!(plugin_types("a.conflist", "{"), Err(CniError::Json(_))));
        assert!(is_configuration("a.conf") && !is_configuration(".10-kilo.conflist.kilo-new"));
    }

    #[test]
    fn files_that_cannot_be_kept_say_why() {
        assert!(matches!(with_network("{", &network(&[], 0)), Err(CniError::Json(_))));
        assert!(matches!(with_network("{}", &network(&[], 0)), Err(CniError::NoPlugins)));
        for plugins in [r#"[{"type":"portmap"},5]"#, r#"[{"type":"bridge","ipam":5}]"#] {
            let list = format!(r#"{{"plugins":{plugins}}}"#);
            assert!(matches!(with_network(&list, &network(&[], 0)), Err(CniError::NoIpam)));
        }
    }
}
