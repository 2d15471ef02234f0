//! Turns a list and its watch into messages. A lost API server or an outdated resource version costs
//! time and nothing else: what was known stays until a new complete list replaces it.

use std::{fmt::Debug, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    core::DynamicObject,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::{Client, NodeRecord, PeerRecord, ProviderRecord, client::describe, object};
use crate::backoff::Backoff;

/// The first and the longest pause before the API server is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How long the API server may be silent while it is asked for a list. A watch may be silent for long.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(30);

/// The longest time between two failures to read the same objects: the attempt and the pause before it.
pub const LONGEST_ATTEMPT: Duration = Duration::from_secs(LIST_LIMIT.as_secs() + RETRY.1.as_secs() + 5);

/// Tells the watches to begin anew: see [`State::is_deaf`](crate::state::State::is_deaf).
pub type Renewal = watch::Receiver<()>;

/// What happened to the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// The object was created or changed.
    Apply(T),
    /// The object of this name is gone.
    Delete(String),
    /// These are all; others that were known are gone.
    Reset(Vec<T>),
}

/// A message to the event loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nodes changed.
    Node(Change<NodeRecord>),
    /// Peers changed.
    Peer(Change<PeerRecord>),
    /// What says where a network provider's pods are changed.
    PodCidrs(Change<ProviderRecord>),
    /// Objects cannot be read now; what is known of them stays.
    Unreadable {
        /// Their plural.
        resource: &'static str,
        /// HTTP status of the answer, if there was one.
        status: Option<u16>,
        /// What to tell the operator.
        error: String,
    },
}

/// Sends what happens to Nodes until the receiver is gone. Each change of `renewal` begins anew with
/// a list.
pub async fn watch_nodes(client: Client, events: mpsc::Sender<Event>, renewal: Renewal) {
    let api: Api<object::NodeView> = Api::all(client.kube.clone());
    watch("nodes", &client, api, None, Event::Node, events, renewal).await;
}

/// Sends what happens to Peers until the receiver is gone. Each change of `renewal` begins anew with
/// a list.
pub async fn watch_peers(client: Client, events: mpsc::Sender<Event>, renewal: Renewal) {
    let api: Api<DynamicObject> = Api::all_with(client.kube.clone(), &object::peer_resource());
    watch("peers", &client, api, None, Event::Peer, events, renewal).await;
}

/// Sends what happens to the objects, or those `only` that a field selector chooses.
pub(super) async fn watch<K, R>(
    resource: &'static str,
    client: &Client,
    api: Api<K>,
    only: Option<String>,
    event: fn(Change<R>) -> Event,
    events: mpsc::Sender<Event>,
    mut renewal: Renewal,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    R: From<K>,
{
    loop {
        let mut config = watcher::Config::default().timeout(client.watch_seconds());
        config.field_selector.clone_from(&only);
        let backoff = Backoff::new(RETRY.0, client.longest_pause(RETRY.1));
        let stream = watcher::watcher(api.clone(), config).backoff(backoff);
        tokio::select! {
            () = forward(resource, stream, event, &events) => if events.is_closed() { return },
            // The sender lives as long as the loop that receives the events.
            renewed = renewal.changed() => if renewed.is_err() { return },
        }
    }
}

/// Sends what `stream` says until the receiver is gone or the stream is stuck, so that another one is
/// needed.
async fn forward<K, R>(
    resource: &'static str,
    stream: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    event: fn(Change<R>) -> Event,
    events: &mpsc::Sender<Event>,
) where
    K: Resource,
    R: From<K>,
{
    let mut stream = std::pin::pin!(stream);
    let mut collector = Collector::default();
    loop {
        let patience = if collector.is_listing { LIST_LIMIT } else { Duration::MAX };
        let (message, is_stuck) = match tokio::time::timeout(patience, stream.next()).await {
            Ok(Some(Ok(item))) => (collector.take(item).map(event), false),
            Ok(Some(Err(error))) => (Some(unreadable(resource, &error)), false),
            Ok(None) => (None, true),
            Err(_) => {
                let error = format!("cannot list {resource}: no answer within {} s", LIST_LIMIT.as_secs());
                (Some(Event::Unreadable { resource, status: None, error }), true)
            }
        };
        if let Some(message) = message
            && events.send(message).await.is_err()
        {
            return;
        }
        if is_stuck {
            return;
        }
    }
}

/// Gathers the objects of a list that comes in pages, so that it takes effect as a whole.
struct Collector<R> {
    list: Vec<R>,
    /// Whether the list is not complete yet.
    is_listing: bool,
}

impl<R> Default for Collector<R> {
    fn default() -> Self {
        Self { list: Vec::new(), is_listing: true }
    }
}

impl<R> Collector<R> {
    fn take<K: Resource + Into<R>>(&mut self, event: watcher::Event<K>) -> Option<Change<R>> {
        match event {
            watcher::Event::Apply(object) => Some(Change::Apply(object.into())),
            watcher::Event::Delete(mut object) => object.meta_mut().name.take().map(Change::Delete),
            watcher::Event::Init => {
                self.list.clear();
                self.is_listing = true;
                None
            }
            watcher::Event::InitApply(object) => {
                self.list.push(object.into());
                None
            }
            watcher::Event::InitDone => {
                self.is_listing = false;
                Some(Change::Reset(std::mem::take(&mut self.list)))
            }
        }
    }
}

fn unreadable(resource: &'static str, error: &watcher::Error) -> Event {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    };
    Event::Unreadable { resource, status, error: explain(resource, error) }
}

/// What is wrong, and what to do about it where that is known.
fn explain(resource: &str, error: &watcher::Error) -> String {
    let (doing, cause) = match error {
        watcher::Error::InitialListFailed(cause) => ("list", cause),
        watcher::Error::WatchStartFailed(cause) | watcher::Error::WatchFailed(cause) => ("watch", cause),
        watcher::Error::WatchError(status) => {
            return format!("watch: {} (HTTP status {})", status.message, status.code);
        }
        watcher::Error::NoResourceVersion => return error.to_string(),
    };
    let advice = match cause {
        kube::Error::Api(status) if status.code == 404 => "; install the custom resource definition",
        kube::Error::Api(status) if status.code == 403 => "; check the agent's ClusterRole",
        _ => "",
    };
    format!("cannot {doing} {resource}: {}{advice}", describe(cause))
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_never_answered_is_told_and_given_up_and_a_silent_watch_is_not() {
        let (events, mut received) = mpsc::channel(4);
        let hung = stream::pending::<watcher::Result<watcher::Event<DynamicObject>>>();
        forward("peers", hung, Event::Peer, &events).await;
        assert!(
            matches!(received.recv().await, Some(Event::Unreadable { resource: "peers", status: None, error }) if error.contains("30 s"))
        );

        let listed = stream::iter([Ok(watcher::Event::Init), Ok(watcher::Event::InitDone)]);
        let silent = listed.chain(stream::pending::<watcher::Result<watcher::Event<DynamicObject>>>());
        let given_up = tokio::time::timeout(LIST_LIMIT * 10, forward("peers", silent, Event::Peer, &events)).await;
        assert!(given_up.is_err());
        assert_eq!(received.recv().await, Some(Event::Peer(Change::Reset(vec![]))));
        assert!(received.try_recv().is_err());
    }
}
