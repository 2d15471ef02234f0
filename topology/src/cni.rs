//! The node's pod CIDRs in a CNI network configuration list (CNI spec 1.0.0, host-local's `ranges`).

use ipnet::IpNet;
use serde_json::{Value, json};

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

/// `conflist` with the `ipam.ranges` of each plugin that has an `ipam` set to `pod_cidrs`, all else as
/// it was; `None` when they are set already.
pub fn with_ranges(conflist: &str, pod_cidrs: &[IpNet]) -> Result<Option<String>, CniError> {
    let mut list: Value = serde_json::from_str(conflist)?;
    let ranges: Value = pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut).ok_or(CniError::NoPlugins)?;
    let ipams: Vec<_> = plugins.iter_mut().filter_map(|plugin| plugin.get_mut("ipam")?.as_object_mut()).collect();
    if ipams.is_empty() {
        return Err(CniError::NoIpam);
    }
    let mut changed = false;
    for ipam in ipams {
        let old = ipam.insert("ranges".to_owned(), ranges.clone());
        changed |= old.as_ref() != Some(&ranges);
    }
    Ok(if changed { Some(serde_json::to_string_pretty(&list)? + "\n") } else { None })
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"0.3.1","name":"kilo","x":{"b":1,"a":2},"plugins":[
        {"name":"kubernetes","type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local","dataDir":"/d"}},{"type":"portmap"}]}"#;

    #[test]
    fn ranges_are_set_once_and_the_rest_is_kept_in_order() {
        let cidrs = ["10.42.1.0/24".parse().unwrap(), "fd42:1::/64".parse().unwrap()];
        let text = with_ranges(LIST, &cidrs).unwrap().unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let ipam = value["plugins"][0]["ipam"].as_object_mut().unwrap();
        assert_eq!(ipam.remove("ranges").unwrap(), json!([[{"subnet": "10.42.1.0/24"}], [{"subnet": "fd42:1::/64"}]]));
        assert_eq!(value.to_string(), serde_json::from_str::<Value>(LIST).unwrap().to_string());
        assert!(with_ranges(&text, &cidrs).unwrap().is_none());
        assert!(with_ranges(&text, &cidrs[..1]).unwrap().is_some());
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
        assert!(matches!(with_ranges("{", &[]), Err(CniError::Json(_))));
        assert!(matches!(with_ranges("{}", &[]), Err(CniError::NoPlugins)));
        assert!(matches!(with_ranges(r#"{"plugins":[{"type":"portmap"},5]}"#, &[]), Err(CniError::NoIpam)));
    }
}
