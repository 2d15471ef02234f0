//! Kubernetes Events: what a person should see with `kubectl describe` at a Node or a Peer.
//!
//! Core v1 Events, which every API server since 1.20 and before takes. They are told in passing: nothing waits for
//! them, there is a budget as client-go's, and one that cannot be written is lost, because the log has it, too.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use tokio::{sync::mpsc, time::Instant};
use topology::news::News;
use tracing::{debug, warn};

use crate::{cluster::Client, metrics::Metrics};

/// The namespace of Events of objects that have none.
const NAMESPACE: &str = "default";
/// Who tells, in `source.component`.
const COMPONENT: &str = "kilo";
/// News that may wait to be written; more are lost.
const QUEUE: usize = 64;
/// So many Events may be written at once…
const BURST: u32 = 25;
/// … and then one each time this passes.
const PERIOD: Duration = Duration::from_secs(30);
/// The same is not told again within this.
const QUIET: Duration = Duration::from_secs(600);
/// The longest message that the API server takes, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// Where news go.
pub type Sender = mpsc::Sender<News>;

/// A channel for news.
pub fn channel() -> (Sender, mpsc::Receiver<News>) {
    mpsc::channel(QUEUE)
}

/// Which Events may be written: no two alike in a short time, and not too many.
#[derive(Debug)]
struct Limiter {
    /// When the budget would be whole.
    whole: Instant,
    told: BTreeMap<News, Instant>,
}

impl Limiter {
    fn new(now: Instant) -> Self {
        Self { whole: now, told: BTreeMap::new() }
    }

    fn admits(&mut self, news: &News, now: Instant) -> bool {
        self.told.retain(|_, at| now.duration_since(*at) < QUIET);
        let whole = self.whole.max(now) + PERIOD;
        if self.told.contains_key(news) || whole.duration_since(now) > PERIOD * BURST {
            return false;
        }
        self.whole = whole;
        self.told.insert(news.clone(), now);
        true
    }
}

/// Writes what comes, until nobody can send any more.
pub async fn run(client: Client, node: String, mut news: mpsc::Receiver<News>, metrics: Arc<Metrics>) {
    let mut limiter = Limiter::new(Instant::now());
    let mut is_refused = false;
    while let Some(news) = news.recv().await {
        if !limiter.admits(&news, Instant::now()) {
            debug!(object = news.object, reason = news.reason.word(), "no Event: too many");
            continue;
        }
        match client.create_event(NAMESPACE, &event(&news, &node, Timestamp::now())).await {
            Ok(()) => is_refused = false,
            Err(error) => {
                metrics.refused("events", error.status());
                if !std::mem::replace(&mut is_refused, true) {
                    warn!(error = error.to_string(), "no Event can be written");
                }
            }
        }
    }
}

fn event(news: &News, node: &str, now: Timestamp) -> Event {
    let (kind, name) = news.object.split_once('/').unwrap_or(("node", node));
    let (api_version, kind) = match kind {
        "peer" => ("kilo.squat.ai/v1alpha1", "Peer"),
        _ => ("v1", "Node"),
    };
    let end = (0..=news.message.len().min(LONGEST_MESSAGE)).rev().find(|end| news.message.is_char_boundary(*end));
    Event {
        metadata: ObjectMeta {
            generate_name: Some("kilo-".to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            // As the kubelet does for its Node, so that `kubectl describe node` finds them.
            uid: (kind == "Node").then(|| name.to_owned()),
            ..ObjectReference::default()
        },
        reason: Some(news.reason.word().to_owned()),
        message: Some(news.message[..end.unwrap_or(0)].to_owned()),
        type_: Some(if news.reason.is_warning() { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::news::Reason;

    fn news(message: &str) -> News {
        News { object: "peer/laptop".to_owned(), reason: Reason::Ignored, message: message.to_owned() }
    }

    #[test]
    fn the_same_is_told_once_and_a_flood_ends() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        assert!(limiter.admits(&news("x"), start));
        assert!(!limiter.admits(&news("x"), start + QUIET - Duration::from_secs(1)));
        let mut limiter = Limiter::new(start);
        let admitted = |limiter: &mut Limiter, after: Duration| {
            (0..100).filter(|n| limiter.admits(&news(&format!("{n} {after:?}")), start + after)).count()
        };
        assert_eq!(admitted(&mut limiter, Duration::ZERO), BURST as usize);
        assert_eq!(admitted(&mut limiter, PERIOD), 1);
        assert_eq!(admitted(&mut limiter, QUIET * 100), BURST as usize);
        assert!(limiter.told.len() <= BURST as usize, "what is old is forgotten");
    }

    #[test]
    fn an_event_is_one_that_the_api_server_takes() {
        let long = format!("{}é{}", "x".repeat(LONGEST_MESSAGE - 1), "y".repeat(5000));
        let event = event(&news(&long), "paris-1", Timestamp::UNIX_EPOCH);
        assert_eq!(event.message.unwrap().len(), LONGEST_MESSAGE - 1, "cut between two characters");
        assert_eq!((event.involved_object.kind.as_deref(), event.type_.as_deref()), (Some("Peer"), Some("Warning")));
        assert_eq!(event.involved_object.name.as_deref(), Some("laptop"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    }
}
