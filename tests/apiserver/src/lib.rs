//! An embedded Kubernetes API server for tests and the demo: real wire protocol, state in memory.
//!
//! It follows the Kubernetes API conventions and the observed behaviour of kube-apiserver, so that the Rust `kube`
//! client and `kubectl` work with it as with the real one, for: namespaces, nodes, pods, config maps, events, leases,
//! service CIDRs, CustomResourceDefinitions and the custom resources these define; and for the proxy to nodes and
//! pods over plain HTTP.
//!
//! The core is made of values and pure functions (`store`, `verbs`, `list`, `patch`, `select`, `schema`, `table`);
//! `http` and `watch` are the shell around it.
//!
//! Not like the real one, on purpose: JSON and YAML only (`kubectl create configmap` and its like send protobuf; use
//! `-f`), no authentication, no authorization but what a test refuses, no admission beyond validation (a new Node gets no taint),
//! no controllers (definitions are established at once, namespaces and definitions take their objects with them at
//! once, pods go without grace period), no field ownership (`managedFields`) for server-side apply, no kinds in OpenAPI v2,
//! and a definition's conversion between versions changes nothing but `apiVersion`.
#![forbid(unsafe_code)]

mod admission;
mod builtin;
mod definition;
mod delete;
mod discovery;
mod error;
mod forward;
mod handle;
mod http;
mod jsonpath;
mod list;
mod meta;
mod openapi;
mod patch;
mod proxy;
mod request;
mod resource;
mod schema;
mod select;
mod store;
mod table;
mod verbs;
mod watch;

use std::collections::{BTreeSet, hash_map::RandomState};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

pub use forward::Dial;
pub use http::{serve, serve_dialing};

use meta::Stamp;
use store::Objects;

/// Changes remembered for watches that lag or resume.
const HISTORY: usize = 10_000;

/// Namespaces that exist from the start and cannot be deleted.
pub(crate) const SYSTEM_NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// The state of one API server; clones share it. It outlives any call of [`serve`], so a server can be stopped and
/// started again without losing objects, as an API server with etcd behind it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    revision: tokio::sync::watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    objects: Objects,
    uids: Uids,
    /// What everybody is refused: verb and plural name of the resource.
    refused: BTreeSet<(String, String)>,
    /// What fails for everybody, likewise.
    failing: BTreeSet<(String, String)>,
}

/// Puts `verb` on `plural` into `rules`, or takes it out.
fn put(rules: &mut BTreeSet<(String, String)>, verb: &str, plural: &str, there: bool) {
    let rule = (verb.to_owned(), plural.to_owned());
    if there {
        rules.insert(rule)
    } else {
        rules.remove(&rule)
    };
}

impl Store {
    /// An empty cluster: the namespaces `default` and `kube-system`, nothing else.
    pub fn new() -> Store {
        let (refused, failing) = (BTreeSet::new(), BTreeSet::new());
        let state = Mutex::new(State { objects: Objects::new(HISTORY), uids: Uids::new(), refused, failing });
        let store = Store { shared: Arc::new(Shared { state, revision: tokio::sync::watch::Sender::new(0) }) };
        for name in SYSTEM_NAMESPACES {
            store.write(|objects, stamp| {
                let namespaces = resource::find(objects, "", "v1", "namespaces");
                let body = json!({"metadata": {"name": name}});
                namespaces.map(|namespaces| {
                    verbs::create(objects, &namespaces, "", body, verbs::WriteOptions::default(), stamp)
                })
            });
        }
        store
    }

    /// Forgets the watch history, as etcd compaction does: from then on a watch that would have to begin before the
    /// present revision, or a page token of an earlier one, gets `410 Expired`.
    pub fn compact(&self) {
        self.state().objects.compact();
    }

    /// Refuses everybody `verb` (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, as in RBAC) on
    /// the resource `plural`, or grants it again. There are no users here, so this is all there is of authorization.
    pub fn refuse(&self, verb: &str, plural: &str, refuse: bool) {
        put(&mut self.state().refused, verb, plural, refuse);
    }

    /// Has `verb` on the resource `plural` fail for everybody as in an outage of what stands behind it, or work again.
    pub fn fail(&self, verb: &str, plural: &str, fail: bool) {
        put(&mut self.state().failing, verb, plural, fail);
    }

    pub(crate) fn fails(&self, verb: &str, plural: &str) -> bool {
        self.state().failing.contains(&(verb.to_owned(), plural.to_owned()))
    }

    pub(crate) fn refuses(&self, verb: &str, plural: &str) -> bool {
        self.state().refused.contains(&(verb.to_owned(), plural.to_owned()))
    }

    /// What `look` finds in the present state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.state().objects)
    }

    /// Lets `change` change the state, and wakes the watches if it did.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Objects, &Stamp) -> T) -> T {
        let (result, revision) = {
            let mut state = self.state();
            let stamp = Stamp { now: now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), uid: state.uids.next() };
            let result = change(&mut state.objects, &stamp);
            (result, state.objects.revision())
        };
        // Writers may get here in another order than they wrote.
        self.shared.revision.send_if_modified(|known| revision > std::mem::replace(known, revision.max(*known)));
        result
    }

    /// Tells when there are new revisions.
    pub(crate) fn revisions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change keeps the objects consistent, so a panic elsewhere does not spoil them.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

/// The present time to the second, which is all that Kubernetes objects tell.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Makes UUIDs: a keyed hash of a counter, in the shape of version 4.
#[derive(Debug)]
struct Uids {
    key: RandomState,
    made: u64,
}

impl Uids {
    fn new() -> Uids {
        Uids { key: RandomState::new(), made: 0 }
    }

    fn next(&mut self) -> String {
        self.made += 1;
        let (high, low) = (self.key.hash_one((self.made, 0)), self.key.hash_one((self.made, 1)));
        let (high, low) = (high & !0xf000 | 0x4000, low & !(3 << 62) | 2 << 62);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

/// The text of a kubeconfig for a server at `server_url` (such as `http://127.0.0.1:8001`) that wants no credentials.
pub fn kubeconfig(server_url: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters:\n- name: lab\n  cluster:\n    server: \"{server_url}\"\n\
         users:\n- name: lab\n  user: {{}}\n\
         contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: lab\n"
    )
}
