//! The Service that answers the cluster's DNS questions.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::ListParams};

use super::{ApiError, Client};

/// Where system components live.
const NAMESPACE: &str = "kube-system";

/// The Service's name in most clusters, whatever runs behind it (Kubernetes documentation, "Customizing DNS
/// Service").
const NAME: &str = "kube-dns";

/// What it is labelled with where it has another name.
const LABEL: &str = "k8s-app=kube-dns";

impl Client {
    /// The addresses of the cluster's DNS server, one of each family at most; none if no Service can be
    /// recognised as such.
    pub async fn dns_addresses(&self) -> Result<Vec<IpAddr>, ApiError> {
        let api: Api<Service> = Api::namespaced(self.kube.clone(), NAMESPACE);
        let asked = format!("get services/{NAME} in {NAMESPACE}");
        let by_name = self.ask(asked, api.get_opt(NAME)).await?;
        let found = match by_name {
            Some(service) => vec![service],
            None => {
                let labelled = ListParams::default().labels(LABEL);
                self.ask(format!("list services in {NAMESPACE}"), api.list(&labelled)).await?.items
            }
        };
        Ok(found.iter().map(addresses).find(|addresses| !addresses.is_empty()).unwrap_or_default())
    }
}

/// The addresses of `service`; a headless one has none.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let several = spec.cluster_ips.iter().flatten();
    // Before dual stack there was only this one (Kubernetes 1.20).
    let single = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none());
    several.chain(single).filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_old_and_new_and_headless_services() {
        for (spec, expected) in [
            (json!({"clusterIP": "10.96.0.10"}), vec!["10.96.0.10"]),
            (
                json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd96::a"]}),
                vec!["10.96.0.10", "fd96::a"],
            ),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), vec![]),
            (json!({}), vec![]),
        ] {
            let service: Service = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(addresses(&service), expected, "{spec}");
        }
    }
}
