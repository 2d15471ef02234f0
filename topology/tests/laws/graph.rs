//! Laws of pictures: whatever the names are, each format stays whole; nothing in the drawing touches what
//! it should not; no line is wider than the terminal.

use proptest::{collection::vec, prelude::*, sample::select};
use topology::{
    Granularity, LeftOut, Seconds, Topology,
    graph::{
        Graph, TextOptions,
        layout::{Curve, Layout, Point, Rect},
    },
};
use unicode_width::UnicodeWidthChar;

use crate::{
    cases,
    common::{Cluster, node, peer},
};

/// A mesh and what it was made of.
#[derive(Debug)]
struct Mesh {
    topology: Topology,
    left_out: Vec<LeftOut>,
    names: Vec<String>,
}

impl Mesh {
    fn graph(&self) -> Graph<'_> {
        Graph::new(&self.topology, &self.left_out)
    }
}

/// What somebody might write into an annotation.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{1,9}(-[a-z0-9]{1,5}){0,2}",
        1 => "[a-z0-9.-]{60,253}",
        1 => "[\"'<>&;#`\\\\\\[\\]{}()|%-]{1,20}",
        1 => "(\\]\\]>|</title>|<script>|end|%%|click|direction TB|-->|1\\. |\"\\]|\u{1b}\\[31m|\u{9b}31m|\u{202e}|\r|\n|\t|\0|東京|é|👩‍👩‍👧){1,6}",
        1 => any::<String>(),
    ]
}

#[derive(Clone, Debug)]
struct Flags {
    location: usize,
    is_ready: bool,
    has_internal_ip: bool,
    keepalive: u16,
    is_dual: bool,
}

fn flags() -> impl Strategy<Value = Flags> {
    let keepalive = prop_oneof![3 => Just(0), 1 => any::<u16>()];
    (0usize..40, prop::bool::weighted(0.9), prop::bool::weighted(0.8), keepalive, any::<bool>()).prop_map(
        |(location, is_ready, has_internal_ip, keepalive, is_dual)| Flags {
            location,
            is_ready,
            has_internal_ip,
            keepalive,
            is_dual,
        },
    )
}

/// From a handful of nodes to hundreds, from one location to forty.
fn mesh() -> impl Strategy<Value = Mesh> {
    let nodes = prop_oneof![vec((hostile(), flags()), 0..8), vec((hostile(), flags()), 8..100)];
    let peers = prop_oneof![3 => vec(hostile(), 0..3), 1 => vec(hostile(), 3..60)];
    let granularity = select(vec![Granularity::Location, Granularity::Full]);
    (nodes, peers, vec(hostile(), 1..40), granularity).prop_map(|(nodes, peers, locations, granularity)| {
        let mut cluster = Cluster { granularity, ..Cluster::new(vec![], vec![]) };
        let mut left_out = Vec::new();
        let mut names = Vec::new();
        for (n, (name, flags)) in (1u8..).zip(nodes) {
            // Names of objects differ.
            let name = format!("{name}{n}");
            let mut node = node(&name, &locations[flags.location % locations.len()], n);
            node.persistent_keepalive = Seconds(flags.keepalive);
            let families = if flags.is_dual { 2 } else { 1 };
            node.pod_cidrs.truncate(families);
            node.internal_ips.truncate(if flags.has_internal_ip { families } else { 0 });
            if flags.is_ready {
                cluster.nodes.push(node);
            } else {
                left_out.push(LeftOut {
                    node,
                    reasons: vec![name.clone(), "has no key".to_owned()],
                    remedy: String::new(),
                });
            }
            names.push(name);
        }
        for (n, name) in (151u8..).zip(peers) {
            let mut peer = peer(&format!("{name}{n}"), n, &format!("10.5.{n}.0/24 fd05:{n}::/64"));
            peer.endpoint = (n % 2 == 0).then(|| format!("198.51.100.{n}:1").parse().unwrap());
            cluster.peers.push(peer);
        }
        Mesh { topology: cluster.topology(), left_out, names }
    })
}

fn visible(c: char) -> bool {
    !c.is_control() && !('\u{200b}'..='\u{200f}').contains(&c) && !('\u{2028}'..='\u{202e}').contains(&c)
}

fn cells(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The point at `t` of a curve.
fn along(curve: &Curve, t: f64) -> (f64, f64) {
    let [a, b, c, d] = curve.points.map(|Point { x, y }| (f64::from(x), f64::from(y)));
    let s = 1.0 - t;
    let mix =
        |a: f64, b: f64, c: f64, d: f64| s * s * s * a + 3.0 * s * s * t * b + 3.0 * s * t * t * c + t * t * t * d;
    (mix(a.0, b.0, c.0, d.0), mix(a.1, b.1, c.1, d.1))
}

fn assert_disjoint<'a>(what: &str, rects: impl IntoIterator<Item = &'a Rect>) {
    let mut rects: Vec<&Rect> = rects.into_iter().collect();
    // Sorted from left to right, only those that begin before one ends can touch it.
    rects.sort_by_key(|rect| rect.x);
    for (index, rect) in rects.iter().enumerate() {
        for other in rects[index + 1..].iter().take_while(|other| other.x < rect.right()) {
            assert!(!rect.overlaps(other), "{what}: {rect:?} and {other:?}");
        }
    }
}

/// A small reader of XML (1.0): start and end tags match, attributes are quoted and differ, references are the
/// five that need no definition. Returns all values of attributes, decoded.
fn read_xml(text: &str) -> Vec<(String, String)> {
    let mut attributes = Vec::new();
    let mut open = Vec::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once('<') {
        decode(before);
        assert!(!open.is_empty() || before.trim().is_empty(), "text outside of the root: {before}");
        let (tag, after) = split_tag(tag);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let (tag, is_closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, list) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_lowercase()), "{name}");
        let found = read_attributes(list);
        let mut names: Vec<_> = found.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), found.len(), "{list}");
        attributes.extend(found);
        if !is_closed {
            open.push(name.to_owned());
        }
    }
    assert_eq!((open, rest), (vec![], "\n"));
    attributes
}

/// Up to the `>` that is in no attribute.
fn split_tag(text: &str) -> (&str, &str) {
    let mut is_quoted = false;
    for (index, c) in text.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            '>' if !is_quoted => return (&text[..index], &text[index + 1..]),
            _ => assert_ne!(c, '<'),
        }
    }
    panic!("a tag is left open: {text}");
}

fn read_attributes(mut list: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while !list.trim().is_empty() {
        let (name, value) = list.split_once("=\"").expect("a value in quotes");
        let (value, rest) = value.split_once('"').expect("its end");
        assert!(name.trim_start().chars().all(|c| c.is_ascii_alphabetic() || c == '-'), "{name}");
        found.push((name.trim_start().to_owned(), decode(value)));
        list = rest;
    }
    found
}

fn decode(text: &str) -> String {
    let (first, parts) = text.split_once('&').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let mut out = first.to_owned();
    for part in parts.iter().flat_map(|rest| rest.split('&')) {
        let (name, rest) = part.split_once(';').expect("a reference has an end");
        let known = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\'')];
        out.push(known.iter().find(|(known, _)| *known == name).expect("a reference that is known").1);
        out.push_str(rest);
    }
    assert!(out.chars().all(|c| c == '\n' || visible(c)), "{out:?}");
    out
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn nothing_in_the_drawing_touches_what_it_should_not(mesh in mesh()) {
        let graph = mesh.graph();
        let layout = Layout::new(&graph);
        let texts = layout.texts();
        for (text, inside) in &texts {
            prop_assert!(inside.contains(&text.bounds()), "{:?} is not inside {:?}", text, inside);
            prop_assert!(text.content.chars().all(visible), "{:?}", text.content);
        }
        let bounds: Vec<Rect> = texts.iter().map(|(text, _)| text.bounds()).collect();
        assert_disjoint("texts", &bounds);
        assert_disjoint("panels", layout.panels.iter().map(|panel| &panel.rect));
        for panel in &layout.panels {
            prop_assert!(layout.canvas.contains(&panel.rect));
            assert_disjoint("cards", panel.cards.iter().map(|card| &card.rect));
            for card in &panel.cards {
                prop_assert!(panel.rect.contains(&card.rect));
                prop_assert!(card.pills.iter().all(|pill| card.rect.contains(&pill.rect)));
            }
        }
        let shown: usize = layout.panels.iter().map(|panel| panel.cards.len()).sum();
        prop_assert_eq!(shown, mesh.names.len() + mesh.topology.peers.len());
    }

    #[test]
    fn no_tunnel_crosses_a_box(mesh in mesh()) {
        let graph = mesh.graph();
        let layout = Layout::new(&graph);
        for curve in &layout.curves {
            for step in 0..=24 {
                let (x, y) = along(curve, f64::from(step) / 24.0);
                for rect in layout.panels.iter().map(|panel| panel.rect) {
                    let is_within = |at: f64, from: i32, to: i32| f64::from(from) < at && at < f64::from(to);
                    let is_inside = is_within(x, rect.x, rect.right()) && is_within(y, rect.y, rect.bottom());
                    prop_assert!(!is_inside, "{:?} at {}, {} is in {:?}", curve, x, y, rect);
                }
            }
        }
    }

    #[test]
    fn the_drawing_is_xml_and_says_who_is_who(mesh in mesh()) {
        let svg = mesh.graph().svg();
        let attributes = read_xml(&svg);
        let of = |wanted: &str| attributes.iter().filter(|(name, _)| name == wanted).count();
        prop_assert_eq!(of("data-node"), mesh.names.len());
        prop_assert_eq!(of("data-peer"), mesh.topology.peers.len());
        for name in mesh.names.iter().filter(|name| name.chars().all(|c| c.is_ascii_graphic())) {
            let expected = ("data-node".to_owned(), name.clone());
            prop_assert!(attributes.contains(&expected), "{}", name);
        }
        prop_assert!(!attributes.iter().any(|(name, _)| name == "id" || name.starts_with("on") || name == "href"));
        // The same input draws the same picture.
        prop_assert_eq!(svg, mesh.graph().svg());
    }

    #[test]
    fn the_document_is_json_and_has_names_as_they_are(mesh in mesh()) {
        let text = mesh.graph().json();
        prop_assert!(text.chars().all(|c| c == '\n' || visible(c)));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut names: Vec<_> =
            document["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect();
        let mut expected = mesh.names.clone();
        names.sort();
        expected.sort();
        prop_assert_eq!(names, expected);
        let known = |link: &serde_json::Value, end: &str| link[end].as_str().is_some_and(|name| !name.is_empty());
        prop_assert!(document["links"].as_array().unwrap().iter().all(|link| known(link, "from") && known(link, "to")));
    }

    #[test]
    fn charts_have_no_loose_ends(mesh in mesh()) {
        for line in mesh.graph().mermaid().lines() {
            let parts: Vec<&str> = line.split('"').collect();
            prop_assert_eq!(parts.len() % 2, 1, "a string is left open: {}", line);
            for quoted in parts.iter().skip(1).step_by(2) {
                let rest = quoted.replace("<br/>", "");
                prop_assert!(!rest.contains(['<', '>', '`', '&', '[', ']', '{', '}', '|', '%']), "{}", line);
                prop_assert!(rest.chars().all(visible), "{:?}", line);
                // What mermaid reads even inside of strings.
                prop_assert!(!["direction ", ". ", "- "].iter().any(|word| rest.contains(word)), "{}", line);
            }
            let outside: String = parts.iter().step_by(2).copied().collect();
            prop_assert!(outside.is_ascii(), "{}", line);
        }
        for line in mesh.topology.dot().lines() {
            let unescaped = line.replace("\\\\", "").replace("\\\"", "");
            prop_assert_eq!(unescaped.matches('"').count() % 2, 0, "a string is left open: {}", line);
            prop_assert!(line.chars().all(|c| c == '\t' || !c.is_control()), "{:?}", line);
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal(mesh in mesh(), width in prop_oneof![1usize..40, 40usize..250], unicode: bool, colour: bool) {
        let text = mesh.graph().text(&TextOptions { width, unicode, colour });
        for line in text.lines() {
            let plain = ["\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m"].iter().fold(line.to_owned(), |line, code| {
                if colour { line.replace(code, "") } else { line }
            });
            prop_assert!(cells(&plain) <= width, "{:?} has more than {} columns", plain, width);
            prop_assert!(plain.chars().all(visible), "{:?}", plain);
            prop_assert!(unicode || plain.is_ascii(), "{:?}", plain);
        }
        if width >= 60 && unicode {
            for name in mesh.names.iter().filter(|name| name.len() < 18 && name.chars().all(|c| c.is_ascii_graphic())) {
                prop_assert!(text.contains(name.as_str()), "{} is not in\n{}", name, text);
            }
        }
    }
}
