//! The versioned object store: what etcd and the watch cache are to kube-apiserver, as plain data.
//!
//! Every write makes the next revision and one [`Change`]; changes are kept in a bounded history from which
//! watches are served and earlier states are computed. Nothing here knows HTTP, time or threads.
//! Semantics: Kubernetes API concepts, "Efficient detection of changes" and "Resource versions".

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

/// Where an object is kept; the order is the order of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `plural.group`, or just `plural` for the core group.
    pub collection: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

/// What a change did to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It did not exist before.
    Added,
    /// It existed before and after.
    Modified,
    /// It exists no more.
    Deleted,
}

impl Verb {
    /// The `type` of the watch event.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Added => "ADDED",
            Verb::Modified => "MODIFIED",
            Verb::Deleted => "DELETED",
        }
    }
}

/// One write.
#[derive(Debug, Clone)]
pub struct Change {
    /// The revision this write made.
    pub revision: u64,
    /// The object written.
    pub key: Key,
    /// What happened to it.
    pub verb: Verb,
    /// The object as written; for a deletion its last state, with `revision` as resourceVersion.
    pub object: Arc<Value>,
    /// The object before, if it existed.
    pub before: Option<Arc<Value>>,
}

impl Change {
    /// How this change looks to someone who sees only objects that satisfy `visible`: an object that starts
    /// or stops satisfying it is added or deleted for that watcher.
    pub fn seen_through(&self, visible: impl Fn(&Value) -> bool) -> Option<(Verb, Arc<Value>)> {
        let before = self.before.as_deref().is_some_and(&visible);
        let after = self.verb != Verb::Deleted && visible(&self.object);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some((Verb::Added, Arc::clone(&self.object))),
            (true, true) => Some((Verb::Modified, Arc::clone(&self.object))),
            (true, false) if self.verb == Verb::Deleted => Some((Verb::Deleted, Arc::clone(&self.object))),
            (true, false) => {
                let mut last_seen = self.before.as_deref().cloned()?;
                set_revision(&mut last_seen, self.revision);
                Some((Verb::Deleted, Arc::new(last_seen)))
            }
        }
    }
}

/// The revision asked for is older than the history reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// The oldest revision that can still be asked for.
    pub oldest: u64,
}

/// All objects, and the latest changes.
#[derive(Debug)]
pub struct Objects {
    revision: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    capacity: usize,
}

impl Objects {
    /// An empty store that remembers the last `capacity` changes.
    pub fn new(capacity: usize) -> Objects {
        Objects { revision: 1, objects: BTreeMap::new(), history: VecDeque::new(), capacity }
    }

    /// The revision of the latest write.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The oldest revision [`Objects::changes_after`] and [`Objects::at`] can start from.
    pub fn oldest(&self) -> u64 {
        self.history.front().map_or(self.revision, |change| change.revision.saturating_sub(1))
    }

    /// Forgets all changes.
    pub fn compact(&mut self) {
        self.history.clear();
    }

    /// The object at `key`.
    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The keys of all objects.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    /// The objects of a collection in key order, of one namespace or of all.
    pub fn list<'a>(
        &'a self,
        collection: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        in_collection(&self.objects, collection, namespace)
    }

    /// The whole state as it was at `revision`, found by undoing the changes since.
    pub fn at(&self, revision: u64) -> Result<Snapshot, Compacted> {
        let mut objects = self.objects.clone();
        for change in self.changes_after(revision)?.rev() {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Ok(Snapshot(objects))
    }

    /// The changes made after `revision`, oldest first; none if `revision` is the latest or in the future.
    pub fn changes_after(&self, revision: u64) -> Result<impl DoubleEndedIterator<Item = &Change>, Compacted> {
        let oldest = self.oldest();
        let Some(skip) = revision.checked_sub(oldest) else { return Err(Compacted { oldest }) };
        // Each write makes exactly one change, so the distance in revisions is the distance in the history.
        let start = usize::try_from(skip).unwrap_or(usize::MAX).min(self.history.len());
        Ok(self.history.range(start..))
    }

    /// Creates or replaces the object at `key`, giving it the next revision as resourceVersion.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        set_revision(&mut object, self.revision);
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        let verb = if before.is_some() { Verb::Modified } else { Verb::Added };
        self.remember(Change { revision: self.revision, key, verb, object: Arc::clone(&object), before });
        object
    }

    /// Removes the object at `key`; gives back its last state, with the revision of the removal.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        let mut last = Value::clone(&before);
        set_revision(&mut last, self.revision);
        let object = Arc::new(last);
        let change = Change {
            revision: self.revision,
            key: key.clone(),
            verb: Verb::Deleted,
            object: Arc::clone(&object),
            before: Some(before),
        };
        self.remember(change);
        Some(object)
    }

    fn remember(&mut self, change: Change) {
        if self.history.len() >= self.capacity {
            self.history.pop_front();
        }
        self.history.push_back(change);
    }
}

/// An earlier state of [`Objects`].
#[derive(Debug)]
pub struct Snapshot(BTreeMap<Key, Arc<Value>>);

impl Snapshot {
    /// As [`Objects::list`].
    pub fn list<'a>(
        &'a self,
        collection: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        in_collection(&self.0, collection, namespace)
    }
}

fn in_collection<'a>(
    objects: &'a BTreeMap<Key, Arc<Value>>,
    collection: &'a str,
    namespace: Option<&'a str>,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
    let namespace_name = namespace.unwrap_or_default().to_owned();
    let start = Key { collection: collection.to_owned(), namespace: namespace_name, name: String::new() };
    objects
        .range(start..)
        .take_while(move |(key, _)| key.collection == collection && namespace.is_none_or(|ns| key.namespace == ns))
}

fn set_revision(object: &mut Value, revision: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(namespace: &str, name: &str) -> Key {
        Key { collection: "pods".into(), namespace: namespace.into(), name: name.into() }
    }

    fn object(colour: &str) -> Value {
        json!({"metadata": {}, "colour": colour})
    }

    fn names<'a>(list: impl Iterator<Item = (&'a Key, &'a Arc<Value>)>) -> Vec<String> {
        list.map(|(key, _)| format!("{}/{}", key.namespace, key.name)).collect()
    }

    fn verbs(objects: &Objects, after: u64) -> Vec<(u64, &'static str)> {
        let changes = objects.changes_after(after).expect("within the history");
        changes.map(|change| (change.revision, change.verb.as_str())).collect()
    }

    #[test]
    fn each_write_makes_one_revision_and_one_change() {
        let mut objects = Objects::new(10);
        let start = objects.revision();
        assert_eq!(objects.put(key("", "a"), object("red"))["metadata"]["resourceVersion"], json!("2"));
        objects.put(key("", "a"), object("blue"));
        let last = objects.remove(&key("", "a")).expect("it is there");
        assert_eq!(last["metadata"]["resourceVersion"], json!("4"));
        assert_eq!(last["colour"], json!("blue"));
        assert_eq!(objects.remove(&key("", "a")), None);
        assert_eq!(verbs(&objects, start), [(2, "ADDED"), (3, "MODIFIED"), (4, "DELETED")]);
        assert_eq!(verbs(&objects, 3), [(4, "DELETED")]);
        assert_eq!(verbs(&objects, 4), []);
        assert_eq!(verbs(&objects, 400), []);
    }

    #[test]
    fn lists_keep_to_collection_and_namespace() {
        let mut objects = Objects::new(10);
        for (namespace, name) in [("b", "2"), ("a", "9"), ("b", "1")] {
            objects.put(key(namespace, name), object("red"));
        }
        objects.put(Key { collection: "pods2".into(), ..key("b", "3") }, object("red"));
        assert_eq!(names(objects.list("pods", None)), ["a/9", "b/1", "b/2"]);
        assert_eq!(names(objects.list("pods", Some("b"))), ["b/1", "b/2"]);
        assert_eq!(names(objects.list("pods", Some(""))), Vec::<String>::new());
    }

    #[test]
    fn an_earlier_state_is_recovered_until_it_is_forgotten() {
        let mut objects = Objects::new(10);
        objects.put(key("", "a"), object("red"));
        objects.put(key("", "b"), object("red"));
        let then = objects.revision();
        objects.put(key("", "a"), object("blue"));
        objects.remove(&key("", "b"));
        objects.put(key("", "c"), object("red"));

        let snapshot = objects.at(then).expect("within the history");
        let colours: Vec<_> = snapshot.list("pods", None).map(|(k, v)| (k.name.clone(), v["colour"].clone())).collect();
        assert_eq!(colours, [("a".to_owned(), json!("red")), ("b".to_owned(), json!("red"))]);

        objects.compact();
        assert_eq!(objects.at(then).err(), Some(Compacted { oldest: objects.revision() }));
        assert!(objects.at(objects.revision()).is_ok());
    }

    #[test]
    fn history_is_bounded() {
        let mut objects = Objects::new(3);
        for _ in 0..5 {
            objects.put(key("", "a"), object("red"));
        }
        assert_eq!(objects.oldest(), 3);
        assert_eq!(verbs(&objects, 3).len(), 3);
        assert_eq!(objects.changes_after(2).err(), Some(Compacted { oldest: 3 }));
    }

    #[test]
    fn a_filtered_watcher_sees_objects_come_and_go() {
        let mut objects = Objects::new(10);
        let red = |value: &Value| value["colour"] == json!("red");
        for colour in ["blue", "red", "red", "blue"] {
            objects.put(key("", "a"), object(colour));
        }
        objects.remove(&key("", "a"));
        let changes = objects.changes_after(1).expect("within the history");
        let seen: Vec<_> = changes.filter_map(|change| change.seen_through(red)).collect();
        let verbs: Vec<_> = seen.iter().map(|(verb, _)| verb.as_str()).collect();
        assert_eq!(verbs, ["ADDED", "MODIFIED", "DELETED"]);
        let gone = &seen[2].1;
        assert_eq!((&gone["colour"], &gone["metadata"]["resourceVersion"]), (&json!("red"), &json!("5")));
    }
}
