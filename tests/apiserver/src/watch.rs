//! Watches: the changes after a revision as a stream of JSON lines (Kubernetes API concepts, "Efficient detection
//! of changes" and "Watch bookmarks").
//!
//! A watch reads from the store's history at its own pace; one that falls out of the history gets an `Expired`
//! error event and ends, so a slow client costs no memory.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Store;
use crate::error::ApiError;
use crate::list::Filter;
use crate::request::Form;
use crate::resource::{self, Resource};
use crate::store::Objects;
use crate::table::{self, Include};

/// Between bookmarks; kube-apiserver takes about a minute, here tests wait for them.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(10);
/// The longest watch if the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Changes looked at under one lock.
const BATCH: usize = 500;

/// What is watched, and how it is sent.
#[derive(Debug)]
pub struct WatchRequest {
    /// The type of the objects.
    pub resource: Resource,
    /// Their namespace; `None` for all.
    pub namespace: Option<String>,
    /// Which of them.
    pub filter: Filter,
    /// The revision to start after; `None` or 0 to start with the present objects as `ADDED` events.
    pub after: Option<u64>,
    /// Whether to mark the end of the present objects by a bookmark (`sendInitialEvents`).
    pub marks_initial_end: bool,
    /// Whether to send bookmarks from time to time.
    pub bookmarks: bool,
    /// How long the watch lasts.
    pub timeout: Option<Duration>,
    /// The form of the objects.
    pub form: Form,
    /// How much of an object the rows of a table carry.
    pub include: Include,
}

/// An event not yet written out.
#[derive(Debug)]
enum Event {
    Object(&'static str, Arc<Value>),
    Bookmark { revision: u64, initial_end: bool },
    Error(ApiError),
}

/// The place of one watch in the history. Pure: reads the store it is given.
#[derive(Debug)]
struct Watcher {
    request: WatchRequest,
    cursor: Option<u64>,
    ended: bool,
    columns_sent: bool,
}

impl Watcher {
    fn new(request: WatchRequest) -> Watcher {
        let cursor = request.after.filter(|&revision| revision > 0);
        Watcher { request, cursor, ended: false, columns_sent: false }
    }

    /// The events since the last call.
    fn advance(&mut self, objects: &Objects) -> Vec<Event> {
        let Some(cursor) = self.cursor else { return self.begin(objects) };
        let collection = self.request.resource.collection();
        let changes = match objects.changes_after(cursor) {
            Ok(changes) => changes.take(BATCH),
            Err(compacted) => {
                self.ended = true;
                let message = format!("too old resource version: {cursor} ({})", compacted.oldest);
                return vec![Event::Error(ApiError::expired(message))];
            }
        };
        let mut events = Vec::new();
        for change in changes {
            self.cursor = Some(change.revision);
            let elsewhere = self.request.namespace.as_ref().is_some_and(|ns| change.key.namespace != *ns);
            if change.key.collection == collection && !elsewhere {
                let seen = change.seen_through(|object| self.request.filter.matches(object));
                events.extend(seen.map(|(verb, object)| Event::Object(verb.as_str(), object)));
            }
        }
        self.ended = !still_served(objects, &self.request.resource);
        events
    }

    fn begin(&mut self, objects: &Objects) -> Vec<Event> {
        let revision = objects.revision();
        self.cursor = Some(revision);
        let collection = self.request.resource.collection();
        let present = objects.list(&collection, self.request.namespace.as_deref());
        let wanted = present.filter(|(_, object)| self.request.filter.matches(object));
        let mut events: Vec<Event> = wanted.map(|(_, object)| Event::Object("ADDED", Arc::clone(object))).collect();
        if self.request.marks_initial_end {
            events.push(Event::Bookmark { revision, initial_end: true });
        }
        events
    }

    fn bookmark(&self) -> Option<Event> {
        let revision = self.cursor.filter(|_| self.request.bookmarks)?;
        Some(Event::Bookmark { revision, initial_end: false })
    }

    /// The events as the client sees them, one JSON object a line.
    fn encode(&mut self, events: Vec<Event>, now: Timestamp) -> Vec<u8> {
        let mut lines = Vec::new();
        for event in events {
            match event {
                Event::Object(verb, object) => {
                    let object = self.request.resource.present(&object);
                    write_line(&mut lines, verb, &self.shape(&object, now));
                }
                Event::Bookmark { revision, initial_end } => {
                    write_line(&mut lines, "BOOKMARK", &self.bookmark_object(revision, initial_end));
                }
                Event::Error(error) => write_line(&mut lines, "ERROR", &error.to_json()),
            }
        }
        lines
    }

    fn shape<'a>(&mut self, object: &'a Value, now: Timestamp) -> Cow<'a, Value> {
        match self.request.form {
            Form::Object => Cow::Borrowed(object),
            Form::Metadata => Cow::Owned(table::partial_metadata(object)),
            Form::Table => {
                let with_columns = !std::mem::replace(&mut self.columns_sent, true);
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let request = &self.request;
                let rows = table::table(&request.resource, &[object], request.include, with_columns, metadata, now);
                Cow::Owned(rows)
            }
        }
    }

    fn bookmark_object(&self, revision: u64, initial_end: bool) -> Value {
        let resource = &self.request.resource;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
    }
}

fn write_line(lines: &mut Vec<u8>, kind: &str, object: &Value) {
    #[derive(Serialize)]
    struct Line<'a> {
        r#type: &'a str,
        object: &'a Value,
    }
    // Writing to memory and values with string keys: neither can fail.
    let _ = serde_json::to_writer(&mut *lines, &Line { r#type: kind, object });
    lines.push(b'\n');
}

/// A watch of custom resources ends when their definition is deleted.
fn still_served(objects: &Objects, watched: &Resource) -> bool {
    watched.builtin().is_some() || resource::find(objects, &watched.group, &watched.version, &watched.plural).is_some()
}

/// The chunks of the response to a watch. The stream ends with the watch.
pub fn watch(store: Store, request: WatchRequest) -> impl Stream<Item = Vec<u8>> + Send {
    let now = Instant::now();
    let deadline = now + request.timeout.unwrap_or(DEFAULT_TIMEOUT).min(DEFAULT_TIMEOUT * 2);
    let bookmark_due = now + BOOKMARK_INTERVAL;
    let revisions = store.revisions();
    let running = Running { watcher: Watcher::new(request), store, revisions, deadline, bookmark_due };
    stream::unfold(running, |mut running| async move {
        let chunk = running.next().await?;
        Some((chunk, running))
    })
}

struct Running {
    watcher: Watcher,
    store: Store,
    revisions: tokio::sync::watch::Receiver<u64>,
    deadline: Instant,
    bookmark_due: Instant,
}

impl Running {
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.watcher.ended {
                return None;
            }
            // A busy watch never waits, but must end all the same.
            self.watcher.ended = Instant::now() >= self.deadline;
            let latest = *self.revisions.borrow_and_update();
            let events = self.store.read(|objects| self.watcher.advance(objects));
            if !events.is_empty() {
                return Some(self.watcher.encode(events, crate::now()));
            }
            if !self.watcher.ended
                && self.watcher.cursor.is_some_and(|cursor| cursor >= latest)
                && let Some(chunk) = self.wait().await
            {
                return Some(chunk);
            }
        }
    }

    /// Until something was written, or it is time for a bookmark or for the end.
    async fn wait(&mut self) -> Option<Vec<u8>> {
        let bookmark = tokio::select! {
            // The sender lives as long as the store, which this watch holds.
            _ = self.revisions.changed() => None,
            () = tokio::time::sleep_until(self.bookmark_due) => {
                self.bookmark_due = Instant::now() + BOOKMARK_INTERVAL;
                self.watcher.bookmark()
            }
            () = tokio::time::sleep_until(self.deadline) => {
                self.watcher.ended = true;
                self.watcher.bookmark()
            }
        };
        bookmark.map(|event| self.watcher.encode(vec![event], crate::now()))
    }
}
