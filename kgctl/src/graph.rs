//! `kgctl graph`: a picture of the mesh. What it looks like is `topology`'s business.

use clap::{Args, ValueEnum};
use topology::graph;

use crate::{
    cli::Global,
    mesh::Mesh,
    outcome::{self, Outcome},
    terminal,
};

/// Print a picture of the mesh: as Graphviz' source, as a drawing, as a table, or for programs.
///
/// All formats but dot group nodes by location and also show the nodes that are not ready, with the
/// reason. dot has upstream's contents: nodes that are ready, grouped by WireGuard peer.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kgctl graph -o text
  kgctl graph -o svg > mesh.svg
  kgctl graph -o json | jq -r '.nodes[] | select(.ready | not) | .name + \": \" + .notReady[]'
  kgctl graph | dot -Tpdf -Kcirco > mesh.pdf

The text format:
  It fits the terminal, or the number of columns that $COLUMNS says; without a terminal, 80. It is
  ASCII unless the locale ($LC_ALL, $LC_CTYPE, $LANG) is UTF-8. There is no colour outside of a
  terminal or if $NO_COLOR is set.")]
pub struct Graph {
    /// The format of the picture.
    #[arg(long, short, value_name = "FORMAT", default_value = "dot", value_enum)]
    output: Format,
}

/// What a picture can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Source for Graphviz.
    Dot,
    /// JSON, as described in docs/graph.md.
    Json,
    /// A flowchart in Mermaid's language, which GitHub draws in Markdown.
    Mermaid,
    /// A drawing for browsers and documents; Graphviz is not needed.
    Svg,
    /// A table for the terminal.
    Text,
}

/// Prints the mesh.
pub async fn run(command: &Graph, global: &Global) -> anyhow::Result<Outcome> {
    let mesh = Mesh::read(global).await?;
    outcome::print(&render(&mesh, command.output))
}

fn render(mesh: &Mesh, format: Format) -> String {
    let graph = graph::Graph::new(&mesh.topology, &mesh.left_out);
    match format {
        Format::Dot => mesh.topology.dot(),
        Format::Svg => graph.svg(),
        Format::Json => graph.json(),
        Format::Mermaid => graph.mermaid(),
        Format::Text => graph.text(&terminal::options()),
    }
}
