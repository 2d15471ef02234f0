//! What a lab should look like, as plain data.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::underlay::Access;

/// Which API server a lab runs on its host `control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// The one of crate `apiserver`, in this process, over plain HTTP.
    #[default]
    Embedded,
    /// kube-apiserver and etcd, over TLS.
    Real,
}

/// A node of the cluster.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) dual_stack: bool,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl NodeSpec {
    /// A node with IPv4 pods, on the network of `location`.
    pub fn new(name: &str, location: &str) -> NodeSpec {
        NodeSpec {
            name: name.to_owned(),
            location: location.to_owned(),
            dual_stack: false,
            annotations: BTreeMap::new(),
        }
    }

    /// Gives its pods IPv6 addresses too.
    pub fn dual_stack(mut self) -> NodeSpec {
        self.dual_stack = true;
        self
    }

    /// Adds an annotation that the Node object has from the start. `key` without a slash is in
    /// `kilo.squat.ai/`.
    pub fn annotation(mut self, key: &str, value: &str) -> NodeSpec {
        self.annotations.insert(annotation_key(key), value.to_owned());
        self
    }
}

/// A lab to be started.
#[derive(Clone, Debug)]
pub struct Spec {
    pub(crate) name: String,
    pub(crate) api: Api,
    pub(crate) locations: Vec<(String, Access)>,
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) hosts: Vec<(String, String)>,
    pub(crate) provider: Option<String>,
}

impl Spec {
    /// A lab with exactly this name (lower-case letters, digits, dashes); there can be one at a time.
    pub fn named(name: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            api: Api::default(),
            locations: Vec::new(),
            nodes: Vec::new(),
            hosts: Vec::new(),
            provider: None,
        }
    }

    /// A lab whose name begins with `label` and that no other lab on this machine has.
    pub fn unique(label: &str) -> Spec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Spec::named(&format!("{label}-{}-{number}", std::process::id()))
    }

    /// Chooses the API server.
    pub fn api(mut self, api: Api) -> Spec {
        self.api = api;
        self
    }

    /// Agents have the rights of the manifests for clusters with this network provider, as `--compatibility` calls it.
    pub fn rights_beside(mut self, provider: &str) -> Spec {
        self.provider = Some(provider.to_owned());
        self
    }

    /// Adds a location (a name of at most 12 characters) without hosts yet.
    pub fn location(mut self, name: &str, access: Access) -> Spec {
        self.locations.push((name.to_owned(), access));
        self
    }

    /// Adds a node.
    pub fn node(mut self, node: NodeSpec) -> Spec {
        self.nodes.push(node);
        self
    }

    /// Adds `count` nodes `<location>-1`, `<location>-2`, …
    pub fn nodes(mut self, location: &str, count: usize) -> Spec {
        self.nodes.extend((1..=count).map(|n| NodeSpec::new(&format!("{location}-{n}"), location)));
        self
    }

    /// Adds a host that is no node of the cluster, such as a laptop that will be a Peer.
    pub fn host(mut self, name: &str, location: &str) -> Spec {
        self.hosts.push((name.to_owned(), location.to_owned()));
        self
    }
}

/// Completes a key of ours: `leader` is `kilo.squat.ai/leader`.
pub(crate) fn annotation_key(key: &str) -> String {
    if key.contains('/') { key.to_owned() } else { format!("kilo.squat.ai/{key}") }
}
