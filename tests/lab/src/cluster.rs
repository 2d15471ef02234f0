//! The objects of the cluster: Nodes and Peers, and the definition of the latter.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::lab::{Lab, Node};
use crate::spec::{NodeSpec, annotation_key};
use crate::underlay::{Access, Addresses, Realm};

/// The label that says where a node is, unless an annotation does.
pub const REGION: &str = "topology.kubernetes.io/region";
const CRDS: &str = include_str!("../../../manifests/crds.yaml");
/// The service account's rights are the same for all distributions, and differ by network provider.
fn manifest(provider: Option<&str>) -> &'static str {
    match provider {
        Some("cilium") => include_str!("../../../manifests/kilo-generic-cilium.yaml"),
        Some("calico") => include_str!("../../../manifests/kilo-generic-calico.yaml"),
        _ => include_str!("../../../manifests/kilo-generic.yaml"),
    }
}

/// How long a Peer definition may take to be served.
pub(crate) const DEFINITION_LIMIT: Duration = Duration::from_secs(30);

/// A client for the API server that the kubeconfig at `path` names.
pub(crate) async fn client(path: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn peer_resource() -> ApiResource {
    ApiResource {
        group: "kilo.squat.ai".into(),
        version: "v1alpha1".into(),
        api_version: "kilo.squat.ai/v1alpha1".into(),
        kind: "Peer".into(),
        plural: "peers".into(),
    }
}

pub(crate) fn definition_resource() -> ApiResource {
    ApiResource {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        api_version: "apiextensions.k8s.io/v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
    }
}

impl Lab {
    /// A client of the cluster's API with all rights, for what this library has no method for. Use it
    /// inside [`Lab::block_on`].
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Runs a future of [`Lab::client`] to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    fn node_api(&self) -> Api<NodeObject> {
        Api::all(self.client())
    }

    fn peer_api(&self) -> Api<DynamicObject> {
        Api::all_with(self.client(), &peer_resource())
    }

    pub(crate) fn create_peer_definition(&self) -> Result<()> {
        let definition: DynamicObject = serde_saphyr::from_str(CRDS).context("parse manifests/crds.yaml")?;
        let api = Api::<DynamicObject>::all_with(self.client(), &definition_resource());
        self.block_on(api.create(&PostParams::default(), &definition)).context("create the Peer definition")?;
        self.wait_until(DEFINITION_LIMIT, "peers are served", || {
            self.block_on(self.peer_api().list(&kube::api::ListParams::default()))?;
            Ok(true)
        })
    }

    /// Gives the agents the rights that the manifest for this provider gives them, and no others.
    pub(crate) fn grant_agents(&self, provider: Option<&str>) -> Result<()> {
        let objects: Vec<DynamicObject> =
            serde_saphyr::from_multiple(manifest(provider)).context("parse the manifest")?;
        objects.into_iter().try_for_each(|object| self.grant(object))
    }

    /// Creates the role or binding `object` under a name that no manifest has; anything else is passed over.
    fn grant(&self, mut object: DynamicObject) -> Result<()> {
        const NAME: &str = "agents-of-the-lab";
        let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
        let plural = match kind {
            "ClusterRole" => "clusterroles",
            "ClusterRoleBinding" => "clusterrolebindings",
            _ => return Ok(()),
        };
        let kind = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind);
        let api = Api::<DynamicObject>::all_with(self.client(), &ApiResource::from_gvk_with_plural(&kind, plural));
        object.metadata.name = Some(NAME.to_owned());
        if let Some(role) = object.data.get_mut("roleRef") {
            role["name"] = json!(NAME);
        }
        self.block_on(api.create(&PostParams::default(), &object)).with_context(|| format!("create {plural}"))?;
        Ok(())
    }

    /// Adds a host and its Node object.
    pub fn create_node(&self, spec: NodeSpec) -> Result<()> {
        let network = {
            let mut inventory = self.inventory();
            inventory.last_pod_network += 1;
            inventory.last_pod_network
        };
        let cidrs = pod_cidrs(self.realm, network, spec.dual_stack)?;
        let addresses = self.add_host_as(&spec.name, &spec.location, Some(Node::default()))?;
        let access = self.access(&spec.name)?;
        let object = node_object(&spec, access, addresses, &cidrs);
        self.create_node_object(&object).with_context(|| format!("create Node {}", spec.name))?;
        self.publish()
    }

    fn create_node_object(&self, object: &Value) -> Result<()> {
        let node: NodeObject = serde_json::from_value(object.clone())?;
        let name = node.metadata.name.clone().unwrap_or_default();
        let api = self.node_api();
        self.block_on(async {
            api.create(&PostParams::default(), &node).await?;
            // The status is a subresource: what the creation says about it is ignored.
            let status = json!({ "status": object["status"] });
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            Ok(())
        })
    }

    /// How a host's location meets the internet.
    pub fn access(&self, host: &str) -> Result<Access> {
        let inventory = self.inventory();
        let host = inventory.hosts.get(host).ok_or_else(|| anyhow!("no host {host}"))?;
        Ok(host.seat.access)
    }

    /// Removes the Node object only; the host and its agent stay.
    pub fn delete_node_object(&self, name: &str) -> Result<()> {
        self.block_on(self.node_api().delete(name, &DeleteParams::default()))
            .with_context(|| format!("delete Node {name}"))?;
        Ok(())
    }

    /// Takes a node away for good: host without a goodbye, then Node object.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        self.remove_host(name)?;
        self.delete_node_object(name)
    }

    /// The Node object as it is now.
    pub fn node(&self, name: &str) -> Result<NodeObject> {
        self.block_on(self.node_api().get(name)).with_context(|| format!("get Node {name}"))
    }

    /// An annotation of a Node. `key` without a slash is in `kilo.squat.ai/`.
    pub fn annotation(&self, node: &str, key: &str) -> Result<Option<String>> {
        let annotations = self.node(node)?.metadata.annotations.unwrap_or_default();
        Ok(annotations.get(&annotation_key(key)).cloned())
    }

    /// Sets an annotation of a Node, or removes it (`None`). `key` without a slash is in
    /// `kilo.squat.ai/`.
    pub fn annotate(&self, node: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.patch_node(node, &json!({ "metadata": { "annotations": { annotation_key(key): value } } }))
    }

    /// Sets a label of a Node, or removes it (`None`).
    pub fn label(&self, node: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.patch_node(node, &json!({ "metadata": { "labels": { key: value } } }))
    }

    /// Applies a JSON merge patch (RFC 7396) to a Node.
    pub fn patch_node(&self, node: &str, patch: &Value) -> Result<()> {
        self.block_on(self.node_api().patch(node, &PatchParams::default(), &Patch::Merge(patch)))
            .with_context(|| format!("patch Node {node}"))?;
        Ok(())
    }

    /// Names of the nodes whose `wireguard-ip` annotation says that they lead, with that address.
    pub fn leaders(&self) -> Result<Vec<(String, String)>> {
        let mut leaders = Vec::new();
        for node in self.nodes() {
            if let Some(address) = self.annotation(&node, "wireguard-ip")?.filter(|text| !text.is_empty()) {
                leaders.push((node, address));
            }
        }
        Ok(leaders)
    }

    /// Creates a Peer, or replaces its spec.
    pub fn apply_peer(&self, name: &str, spec: &Value) -> Result<()> {
        let api = self.peer_api();
        self.block_on(async {
            let mut peer = DynamicObject::new(name, &peer_resource()).data(json!({ "spec": spec }));
            match api.get_opt(name).await? {
                None => api.create(&PostParams::default(), &peer).await,
                Some(old) => {
                    peer.metadata.resource_version = old.metadata.resource_version;
                    api.replace(name, &PostParams::default(), &peer).await
                }
            }
        })
        .with_context(|| format!("apply Peer {name}"))?;
        Ok(())
    }

    /// Removes a Peer.
    pub fn delete_peer(&self, name: &str) -> Result<()> {
        self.block_on(self.peer_api().delete(name, &DeleteParams::default()))
            .with_context(|| format!("delete Peer {name}"))?;
        Ok(())
    }
}

/// The pod networks of node number `network`.
fn pod_cidrs(realm: Realm, network: u8, dual_stack: bool) -> Result<Vec<IpNet>> {
    let mut cidrs = vec![realm.pods(network).parse()?];
    if dual_stack {
        cidrs.push(realm.pods6(network).parse()?);
    }
    Ok(cidrs)
}

/// The Node object as a kubelet and a node IPAM controller would make it, with the annotations that a
/// person would add for such a location.
fn node_object(spec: &NodeSpec, access: Access, addresses: Addresses, cidrs: &[IpNet]) -> Value {
    let mut annotations = json!({});
    match (access, addresses.public) {
        (Access::Elastic, Some(public)) => {
            annotations[annotation_key("force-endpoint")] = json!(format!("{public}:51820"));
        }
        (Access::Masquerade, _) => annotations[annotation_key("persistent-keepalive")] = json!("5"),
        _ => {}
    }
    for (key, value) in &spec.annotations {
        annotations[key] = json!(value);
    }
    let status = [
        json!({ "type": "Hostname", "address": spec.name }),
        json!({ "type": "InternalIP", "address": addresses.private }),
        json!({ "type": "ExternalIP", "address": addresses.managed }),
    ];
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": spec.name,
            "labels": { REGION: spec.location, "kubernetes.io/hostname": spec.name },
            "annotations": annotations,
        },
        "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
        "status": {
            "addresses": status,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Lab", "message": "host is up" }],
        },
    })
}
