//! A cluster for kgctl to look at, and kgctl itself in an environment of its own.

use std::{
    future,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Output},
};

use apiserver::Store;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

const NODES: &str = "/api/v1/nodes";
const PEERS: &str = "/apis/kilo.squat.ai/v1alpha1/peers";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = include_str!("../../../manifests/crds.yaml");

/// Base64 of 32 bytes of value 1.
pub const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// An API server and a directory that is a user's home.
pub struct Cluster {
    address: SocketAddr,
    home: TempDir,
    // The server ends with its runtime.
    _runtime: Runtime,
}

impl Cluster {
    /// A cluster without nodes and without the definition of Peers.
    pub fn empty() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        runtime.spawn(apiserver::serve(listener, Store::new(), future::pending()));
        let home = home_for(&format!("http://{address}"));
        Self { address, home, _runtime: runtime }
    }

    /// A cluster without nodes that knows what Peers are.
    pub fn defined() -> Self {
        let cluster = Self::empty();
        cluster.post(DEFINITIONS, "application/yaml", DEFINITION);
        cluster
    }

    /// Where its API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Paris with the nodes `paris-1`, which leads, and `paris-2`; `oslo-1` behind NAT; the Peer `laptop`.
    pub fn example() -> Self {
        let cluster = Self::defined();
        cluster.node("paris-1", "paris", 1, &json!({}));
        cluster.node("paris-2", "paris", 2, &json!({}));
        cluster.node("oslo-1", "oslo", 3, &json!({"kilo.squat.ai/persistent-keepalive": "25"}));
        cluster.peer("laptop", &json!({"allowedIPs": ["10.5.0.1/32"], "publicKey": KEY}));
        cluster
    }

    /// Adds a node that is ready, except for what `annotations` say otherwise.
    pub fn node(&self, name: &str, location: &str, n: u8, annotations: &Value) {
        let mut all = json!({
            "kilo.squat.ai/endpoint": format!("203.0.113.{n}:51820"),
            "kilo.squat.ai/granularity": "location",
            "kilo.squat.ai/internal-ip": format!("10.1.0.{n}/24"),
            "kilo.squat.ai/key": topology::PublicKey::new([n + 100; 32]).expect("not zero").to_string(),
            "kilo.squat.ai/last-seen": "1700000000",
            "kilo.squat.ai/location": location,
            "kilo.squat.ai/wireguard-ip": "10.4.0.1/16",
        });
        for (key, value) in annotations.as_object().expect("annotations") {
            all[key] = value.clone();
        }
        let spec = json!({"podCIDR": format!("10.42.{n}.0/24"), "podCIDRs": [format!("10.42.{n}.0/24")]});
        let metadata = json!({"name": name, "annotations": all});
        self.create(NODES, &json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}));
    }

    /// Adds a Peer.
    pub fn peer(&self, name: &str, spec: &Value) {
        let api_version = "kilo.squat.ai/v1alpha1";
        let metadata = json!({"name": name});
        self.create(PEERS, &json!({"apiVersion": api_version, "kind": "Peer", "metadata": metadata, "spec": spec}));
    }

    fn create(&self, path: &str, object: &Value) {
        self.post(path, "application/json", &object.to_string());
    }

    fn post(&self, path: &str, kind: &str, body: &str) {
        let length = body.len();
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: {kind}");
        write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        assert!(answer.starts_with("HTTP/1.1 201"), "POST {path}: {answer}");
    }

    /// The kubeconfig of the cluster, which its user has in the usual place.
    pub fn kubeconfig(&self) -> PathBuf {
        self.home.path().join(".kube/config")
    }

    /// kgctl as the cluster's user runs it.
    pub fn kgctl(&self, arguments: &[&str]) -> Output {
        run(&self.home, arguments)
    }

    /// What kgctl prints; it must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.kgctl(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }

    /// `program` in the environment of the cluster's user, with kgctl on its path.
    pub fn command(&self, program: &str) -> Command {
        command(&self.home, program)
    }
}

/// The home of a user of the API server at `url`.
pub fn home_for(url: &str) -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(home.path().join(".kube")).expect("a directory");
    std::fs::write(home.path().join(".kube/config"), apiserver::kubeconfig(url)).expect("a file");
    home
}

/// kgctl as the user with this home runs it.
pub fn run(home: &TempDir, arguments: &[&str]) -> Output {
    command(home, env!("CARGO_BIN_EXE_kgctl")).args(arguments).output().expect("kgctl runs")
}

fn command(home: &TempDir, program: &str) -> Command {
    let directory = PathBuf::from(env!("CARGO_BIN_EXE_kgctl")).parent().expect("a directory").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([directory].into_iter().chain(std::env::split_paths(&path)));
    let mut command = Command::new(program);
    command.env("HOME", home.path()).env("PATH", path.expect("a path")).env_remove("KUBECONFIG");
    command.env_remove("KUBERNETES_SERVICE_HOST");
    command
}

/// What a program wrote.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
