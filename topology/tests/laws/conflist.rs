//! A network configuration in which others have their plugins and fields, too.

use ipnet::IpNet;
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use serde_json::{Map, Value, json};
use topology::cni::{OWN_MTU, PodNetwork, with_network};

use crate::cases;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z/.:\\\\\"]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map("[a-z]{1,4}", inner, 0..3).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A plugin of any type, some with what the agent looks at, in any form.
fn plugin() -> impl Strategy<Value = Value> {
    let known = btree_map(select(vec!["type", "ipam", "mtu", OWN_MTU, "ranges"]), any_json(), 0..4);
    let kind = select(vec!["bridge", "ptp", "portmap", "istio-cni"]);
    let ipam = prop::option::weighted(0.5, btree_map("[a-z]{1,6}", any_json(), 0..3));
    (btree_map("[a-z]{1,5}", any_json(), 0..4), known, kind, ipam).prop_map(|(fields, known, kind, ipam)| {
        let mut plugin: Map<String, Value> = fields.into_iter().collect();
        plugin.extend(known.into_iter().map(|(key, value)| (key.to_owned(), value)));
        plugin.insert("type".to_owned(), kind.into());
        if let Some(ipam) = ipam {
            plugin.insert("ipam".to_owned(), Value::Object(ipam.into_iter().collect()));
        }
        Value::Object(plugin)
    })
}

/// A plugin without what the agent may set in it.
fn foreign(plugin: &Value) -> String {
    let mut plugin = plugin.clone();
    if let Some(ipam) = plugin.get_mut("ipam").and_then(Value::as_object_mut) {
        ipam.shift_remove("ranges");
        if let Some(plugin) = plugin.as_object_mut() {
            plugin.shift_remove("mtu");
            plugin.shift_remove(OWN_MTU);
        }
    }
    plugin.to_string()
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn plugins_of_others_stay_in_their_places(plugins in vec(plugin(), 0..4), extra in any_json(), mtu in 1280u32..9000) {
        let cidrs: Vec<IpNet> = vec!["10.42.1.0/24".parse().unwrap(), "fd42:1::/64".parse().unwrap()];
        let network = PodNetwork { cidrs, mtu };
        let list = json!({ "x": extra, "plugins": plugins, "name": "kilo" });
        let has_ipam = plugins.iter().any(|plugin| plugin["ipam"].is_object());
        let result = with_network(&list.to_string(), &network);
        prop_assert_eq!(result.is_ok(), has_ipam);
        let Ok(Some(text)) = result else { return Ok(()) };

        let now: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!((&now["x"], &now["name"]), (&list["x"], &list["name"]));
        let after = now["plugins"].as_array().unwrap();
        prop_assert_eq!(after.len(), plugins.len());
        for (before, after) in plugins.iter().zip(after) {
            prop_assert_eq!(foreign(before), foreign(after));
            let theirs = !before["mtu"].is_null() && before["mtu"] != before[OWN_MTU];
            prop_assert!(!theirs || before["mtu"] == after["mtu"], "a person's MTU was changed");
        }
        prop_assert!(with_network(&text, &network).unwrap().is_none(), "once is enough");
    }
}
