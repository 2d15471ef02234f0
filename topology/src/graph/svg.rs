//! The mesh as SVG 1.1, drawn without Graphviz: shapes of a [`Layout`] with what they are.
//!
//! The drawing also stands in web pages: every selector of its style sheet begins with its own class, no
//! element has an identifier that could clash, and elements say what they are about in `data-` attributes
//! (`data-location`, `data-node`, `data-peer`; `data-from` and `data-to` on tunnels). There are no scripts
//! and nothing is loaded.

use std::fmt::{self, Write as _};

use super::{
    layout::{Card, Curve, Entry, Layout, Panel, PanelKind, Pill, PillKind, Point, Rect, Style, Subject, Symbol, Text},
    model::{Graph, NodeView, Site, count},
};
use crate::{
    Peer,
    label::{printable, shorten},
};

impl Graph<'_> {
    /// The drawing, ending with a line feed.
    pub fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        _ = write_drawing(&mut out, &Layout::new(self));
        out
    }
}

fn write_drawing(out: &mut String, layout: &Layout<'_>) -> fmt::Result {
    let Rect { w, h, .. } = layout.canvas;
    // Fewer lines may be heavier.
    let dense = if layout.curves.len() > 40 { " dense" } else { "" };
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="kilo-mesh{dense}" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img">"#
    )?;
    writeln!(out, "<title>{}</title>", escaped(&layout.title.content))?;
    writeln!(out, "<style>{}</style>", include_str!("style.css").trim_end())?;
    writeln!(out, r#"<rect class="canvas" width="{w}" height="{h}" rx="8"/>"#)?;
    write_text(out, &layout.title)?;
    write_text(out, &layout.summary)?;
    for curve in &layout.curves {
        write_curve(out, curve, &layout.panels)?;
    }
    layout.panels.iter().try_for_each(|panel| write_panel(out, panel))?;
    layout.legend.iter().try_for_each(|entry| write_entry(out, entry))?;
    writeln!(out, "</svg>")
}

fn write_text(out: &mut String, text: &Text) -> fmt::Result {
    let Point { x, y } = text.at;
    writeln!(out, r#"<text class="{}" x="{x}" y="{y}">{}</text>"#, class(text.style), escaped(&text.content))
}

fn class(style: Style) -> &'static str {
    match style {
        Style::Title => "title",
        Style::Summary => "summary",
        Style::Heading => "heading",
        Style::Note => "note",
        Style::Name => "name",
        Style::Key => "key",
        Style::Detail => "detail",
        Style::Pill => "pill-text",
        Style::Legend => "legend",
    }
}

fn place(rect: &Rect) -> String {
    let Rect { x, y, w, h } = rect;
    format!(r#"x="{x}" y="{y}" width="{w}" height="{h}""#)
}

fn write_curve(out: &mut String, curve: &Curve, panels: &[Panel<'_>]) -> fmt::Result {
    let kind = if curve.is_to_peers { "peer-tunnel" } else { "tunnel" };
    let width = if curve.tunnels > 1 { " many" } else { "" };
    let [from, to] = [&panels[curve.from], &panels[curve.to]];
    let [a, b, c, d] = curve.points.map(|Point { x, y }| format!("{x} {y}"));
    writeln!(
        out,
        r#"<path class="{kind}{width}"{}{} d="M{a}C{b} {c} {d}"><title>{} – {}: {}</title></path>"#,
        panel_data("from", from),
        panel_data("to", to),
        escaped(from.title()),
        escaped(to.title()),
        count(curve.tunnels, "tunnel"),
    )
}

/// The end of a tunnel as an attribute; that of peers has none, because a location may have any name.
fn panel_data(end: &str, panel: &Panel<'_>) -> String {
    match panel.kind {
        PanelKind::Location(site) => format!(r#" data-{end}="{}""#, location(site)),
        PanelKind::Peers(_) => String::new(),
    }
}

/// A location's name. It may come from an annotation as long as annotations can be, and stands here in
/// every tunnel's two ends: only as much of it is told as a Node's name may have.
fn location(site: &Site<'_>) -> String {
    escaped(&shorten(site.location.as_str(), 253, '…'))
}

fn write_panel(out: &mut String, panel: &Panel<'_>) -> fmt::Result {
    match panel.kind {
        PanelKind::Location(site) => {
            let absent = if site.nodes.iter().any(NodeView::is_ready) { "" } else { " absent" };
            write!(out, r#"<g class="location{absent}" data-location="{}">"#, location(site))?;
        }
        PanelKind::Peers(_) => write!(out, r#"<g class="peers">"#)?,
    }
    writeln!(out, r#"<rect class="panel" {} rx="10"/>"#, place(&panel.rect))?;
    write_text(out, &panel.heading)?;
    write_text(out, &panel.note)?;
    panel.cards.iter().try_for_each(|card| write_card(out, card))?;
    writeln!(out, "</g>")
}

fn write_card(out: &mut String, card: &Card<'_>) -> fmt::Result {
    let (class, data, title) = match card.subject {
        Subject::Node(node) => {
            (node_class(node), format!(r#"data-node="{}""#, escaped(node.name.as_str())), node_title(node))
        }
        Subject::Peer(peer) => ("peer", format!(r#"data-peer="{}""#, escaped(peer.name.as_str())), peer_title(peer)),
    };
    writeln!(out, r#"<g class="{class}" {data}><title>{}</title>"#, escaped_lines(&title))?;
    writeln!(out, r#"<rect class="card" {} rx="5"/>"#, place(&card.rect))?;
    write_symbol(out, symbol(&card.subject), card.icon)?;
    card.texts.iter().try_for_each(|text| write_text(out, text))?;
    card.pills.iter().try_for_each(|pill| write_pill(out, pill))?;
    writeln!(out, "</g>")
}

fn node_class(node: &NodeView<'_>) -> &'static str {
    match (node.is_leader, node.is_ready()) {
        (true, _) => "node leader",
        (_, true) => "node",
        (_, false) => "node absent",
    }
}

fn symbol(subject: &Subject<'_>) -> Symbol {
    match subject {
        Subject::Node(node) if node.is_leader => Symbol::Leader,
        Subject::Node(node) if node.is_ready() => Symbol::Member,
        Subject::Node(_) => Symbol::Absent,
        Subject::Peer(_) => Symbol::Device,
    }
}

fn write_symbol(out: &mut String, symbol: Symbol, Point { x, y }: Point) -> fmt::Result {
    match symbol {
        // A star of five points, 7 pixels from its centre.
        Symbol::Leader => writeln!(
            out,
            r#"<path class="star" d="M{x} {}l1.8 4.6 4.9 .3-3.8 3.1 1.3 4.8-4.2-2.7-4.2 2.7 1.3-4.8-3.8-3.1 4.9-.3z"/>"#,
            y - 7
        ),
        Symbol::Member => writeln!(out, r#"<circle class="dot" cx="{x}" cy="{y}" r="3.5"/>"#),
        Symbol::Absent => {
            writeln!(out, r#"<path class="cross" d="M{} {}l8 8m0 -8l-8 8"/>"#, x - 4, y - 4)
        }
        Symbol::Nat => write_pill(out, &Pill::around(Point { x, y }, PillKind::Nat)),
        Symbol::NoInternalIp => write_pill(out, &Pill::around(Point { x, y }, PillKind::NoInternalIp)),
        Symbol::Tunnel => writeln!(out, r#"<path class="tunnel" d="M{} {y}h28"/>"#, x - 14),
        Symbol::PeerTunnel => writeln!(out, r#"<path class="peer-tunnel" d="M{} {y}h28"/>"#, x - 14),
        Symbol::Nothing => Ok(()),
        Symbol::Device => writeln!(out, r#"<circle class="device" cx="{x}" cy="{y}" r="4"/>"#),
    }
}

fn write_pill(out: &mut String, pill: &Pill) -> fmt::Result {
    let kind = match pill.kind {
        PillKind::Nat => "nat",
        PillKind::NoInternalIp => "alone",
    };
    writeln!(out, r#"<rect class="pill {kind}" {} rx="7"/>"#, place(&pill.rect))?;
    write_text(out, &pill.text)
}

fn write_entry(out: &mut String, entry: &Entry) -> fmt::Result {
    write_symbol(out, entry.symbol, entry.at)?;
    write_text(out, &entry.text)
}

/// Everything about a node, a line each.
fn node_title(node: &NodeView<'_>) -> Vec<String> {
    let mut lines = vec![node.name.to_string()];
    if node.is_leader {
        lines.push("leader".to_owned());
    }
    lines.extend(node.not_ready.iter().map(|reason| format!("not ready: {reason}")));
    lines.extend(listed("WireGuard IPs", node.wireguard_ips));
    lines.extend(listed("endpoint", node.endpoint.as_slice()));
    lines.extend(listed("internal IPs", node.internal_ips));
    lines.extend(listed("pod CIDRs", node.pod_cidrs));
    lines.extend(keepalive(node.persistent_keepalive.0));
    lines.extend(listed("public key", node.key.as_slice()));
    lines
}

fn peer_title(peer: &Peer) -> Vec<String> {
    let mut lines = vec![peer.name.to_string()];
    lines.extend(listed("endpoint", peer.endpoint.as_slice()));
    lines.extend(listed("allowed IPs", &peer.allowed_ips));
    lines.extend(keepalive(peer.persistent_keepalive.0));
    lines.push(format!("public key: {}", peer.key));
    lines
}

fn keepalive(seconds: u16) -> Option<String> {
    (seconds > 0).then(|| format!("behind NAT: keepalive every {seconds} s"))
}

fn listed<T: ToString>(what: &str, items: &[T]) -> Option<String> {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    (!items.is_empty()).then(|| format!("{what}: {}", items.join(", ")))
}

fn escaped_lines(lines: &[String]) -> String {
    lines.iter().map(|line| escaped(line)).collect::<Vec<_>>().join("\n")
}

/// Text or an attribute's value in double quotes (XML 1.0, section 2.4).
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
    out
}
