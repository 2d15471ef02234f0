//! `kgctl status --watch`: objects come through watches, agents are asked again and again.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    time::Duration,
};

use agent::cluster::{Change, Client, Event, NodeRecord, PeerRecord, watch_nodes, watch_peers};
use anyhow::Context;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Command, Form, Objects,
    model::{Answers, Trouble},
};
use crate::{
    cli::Global,
    mesh::{self, Options},
    outcome::Outcome,
    terminal,
};

/// How long after their answers the agents are asked again.
const POLL: Duration = Duration::from_secs(3);

/// Changes come in bursts, and in a large cluster somebody checks in all the time: they are shown together.
const SETTLE: Duration = Duration::from_secs(1);

/// Messages that may wait.
const QUEUE: usize = 256;

/// What the watches have said.
#[derive(Default)]
struct Known {
    nodes: BTreeMap<String, NodeRecord>,
    peers: BTreeMap<String, PeerRecord>,
    unreadable: BTreeMap<&'static str, Trouble>,
    /// Whether all nodes were listed.
    has_nodes: bool,
}

impl Known {
    /// Takes in what a watch says; returns whether that is news.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Node(change) => {
                let is_first = !self.has_nodes && matches!(change, Change::Reset(_));
                self.has_nodes |= is_first;
                let is_readable_again = self.unreadable.remove("nodes").is_some();
                apply(&mut self.nodes, change, |node| &node.name) | is_readable_again | is_first
            }
            Event::Peer(change) => {
                let is_readable_again = self.unreadable.remove("peers").is_some();
                apply(&mut self.peers, change, |peer| &peer.name) | is_readable_again
            }
            // Agents announce what they find there.
            Event::PodCidrs(_) => false,
            Event::Unreadable { resource, error, status } => {
                let trouble = match (resource, status) {
                    ("peers", Some(404)) => Trouble::from(&mesh::no_definition()),
                    _ => Trouble::of_mesh(error),
                };
                self.unreadable.insert(resource, trouble.clone()) != Some(trouble)
            }
        }
    }

    fn objects(&self) -> Objects {
        Objects {
            nodes: self.nodes.values().cloned().collect(),
            peers: self.peers.values().cloned().collect(),
            troubles: self.unreadable.values().cloned().collect(),
        }
    }
}

/// Makes the change; returns whether it was one.
fn apply<T: PartialEq>(known: &mut BTreeMap<String, T>, change: Change<T>, name: fn(&T) -> &String) -> bool {
    let named = |object: T| (name(&object).clone(), object);
    match change {
        Change::Apply(object) => {
            let (name, object) = named(object);
            let is_same = known.get(&name) == Some(&object);
            known.insert(name, object);
            !is_same
        }
        Change::Delete(name) => known.remove(&name).is_some(),
        Change::Reset(objects) => {
            let new = objects.into_iter().map(named).collect();
            std::mem::replace(known, new) != *known
        }
    }
}

/// Shows the status until nobody reads it any more.
pub async fn run(command: &Command, global: &Global, client: Client) -> anyhow::Result<Outcome> {
    // What is wrong at the beginning is a failure, not something to wait for.
    let first = Objects::list(&client).await?;
    command.check_names(&first, &Options::now(global)?)?;
    let (sender, mut events) = mpsc::channel(QUEUE);
    let (_renewal, renewed) = watch::channel(());
    tokio::spawn(watch_nodes(client.clone(), sender.clone(), renewed.clone()));
    tokio::spawn(watch_peers(client.clone(), sender, renewed));
    let mut known = Known::default();
    let mut answers = Answers::new();
    let mut asking = Box::pin(ask(command, &client, global, first, Instant::now()));
    let mut show_at = None;
    loop {
        tokio::select! {
            event = events.recv() => {
                if known.handle(event.context("the watches ended unexpectedly")?) {
                    show_at.get_or_insert(Instant::now() + SETTLE);
                }
            }
            answered = &mut asking => {
                answers = answered?;
                asking.set(ask(command, &client, global, known.objects(), Instant::now() + POLL));
                show_at.get_or_insert(Instant::now());
            }
            () = until(show_at) => {
                show_at = None;
                // Half a list would look like a loss.
                if known.has_nodes && !show(command, &known, &answers, global)? {
                    return Ok(Outcome::Done);
                }
            }
        }
    }
}

/// What the agents say, asked at `at`.
async fn ask(
    command: &Command,
    client: &Client,
    global: &Global,
    objects: Objects,
    at: Instant,
) -> anyhow::Result<Answers> {
    sleep_until(at).await;
    command.ask(client, &objects, global).await
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Shows it once; `false` if nobody reads it any more.
fn show(command: &Command, known: &Known, answers: &Answers, global: &Global) -> anyhow::Result<bool> {
    let status = command.status(&known.objects(), answers, &Options::now(global)?);
    let text = command.render(&status, false)?;
    let is_json = command.output == Form::Json;
    let frame = match terminal::size().filter(|_| !is_json) {
        Some((_, lines)) => in_place(&text, lines),
        None if is_json => text,
        None => text + "\n",
    };
    let mut stdout = stdout().lock();
    match stdout.write_all(frame.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write to stdout"),
    }
}

/// `text` as what replaces the contents of a terminal with so many lines (ECMA-48: CUP, EL, ED), without
/// the flicker of clearing it first.
fn in_place(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    let mut frame = "\x1b[H".to_owned();
    let fitting = if all.len() < lines { all.len() } else { lines.saturating_sub(2) };
    for line in &all[..fitting] {
        frame += &format!("{line}\x1b[K\n");
    }
    if fitting < all.len() {
        frame += &format!("… {} more lines: make the terminal larger, or name nodes\x1b[K\n", all.len() - fitting);
    }
    frame + "\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal() {
        assert_eq!(in_place("a\nb\n", 3), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        let frame = in_place("a\nb\nc\n", 3);
        assert_eq!(frame.lines().count(), 3, "{frame:?}");
        assert!(frame.contains("2 more lines"), "{frame:?}");
        assert!(in_place("a\nb\nc\n", 0).contains("3 more lines"));
    }

    #[test]
    fn objects_come_and_go_and_stay_while_they_cannot_be_read() {
        let node = |name: &str| NodeRecord { name: name.to_owned(), ..NodeRecord::default() };
        let names = |known: &Known| known.objects().nodes.into_iter().map(|node| node.name).collect::<Vec<_>>();
        let mut known = Known::default();
        let listed = || Event::Node(Change::Reset(vec![node("a"), node("b")]));
        assert!(known.handle(Event::Node(Change::Apply(node("early")))) && !known.has_nodes);
        assert!(known.handle(listed()) && known.has_nodes);
        assert!(!known.handle(listed()) && !known.handle(Event::Node(Change::Apply(node("b")))), "no news");
        assert!(known.handle(Event::Node(Change::Delete("a".to_owned()))));
        let gone = || Event::Unreadable { resource: "nodes", status: None, error: "gone".to_owned() };
        assert!(known.handle(gone()) && !known.handle(gone()), "told once");
        assert_eq!(names(&known), ["b"]);
        assert_eq!(known.objects().troubles, [Trouble::of_mesh("gone".to_owned())]);
        assert!(known.handle(Event::Node(Change::Apply(node("b")))), "readable again");
        known.handle(Event::Node(Change::Apply(node("c"))));
        assert_eq!((names(&known), known.objects().troubles), (vec!["b".to_owned(), "c".to_owned()], vec![]));
    }
}
