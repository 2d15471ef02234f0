//! A picture of the mesh: our own drawing, or, for upstream's other formats and layouts, Graphviz'.

use std::{collections::BTreeMap, process::Stdio, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::{io::AsyncWriteExt, process::Command};
use topology::{Topology, graph::Graph};

use super::{Refusal, Shared};

/// How long Graphviz may draw; some layouts of some graphs take forever.
const DRAWING_LIMIT: Duration = Duration::from_secs(20);

/// The first is what is drawn for those who do not say.
const FORMATS: [&str; 9] = ["svg", "png", "dot", "gv", "bmp", "fig", "gif", "json", "ps"];
const LAYOUTS: [&str; 5] = ["circo", "dot", "neato", "twopi", "fdp"];

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Picture {
    /// Our own drawing.
    Own,
    /// Graphviz' source.
    Source,
    /// Graphviz' drawing.
    Graphviz { format: &'static str, layout: &'static str },
}

impl Picture {
    /// Upstream's formats and layouts; a text that is not among them never reaches a command line.
    /// SVG without a layout is drawn without Graphviz.
    fn from_query(query: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let format = one_of(query, "format", &FORMATS)?.unwrap_or(FORMATS[0]);
        let layout = one_of(query, "layout", &LAYOUTS)?;
        Ok(match (format, layout) {
            ("dot" | "gv", _) => Self::Source,
            ("svg", None) => Self::Own,
            (format, layout) => Self::Graphviz { format, layout: layout.unwrap_or(LAYOUTS[0]) },
        })
    }

    fn content_type(&self) -> &'static str {
        match self {
            Self::Own | Self::Graphviz { format: "svg", .. } => "image/svg+xml",
            Self::Source => "text/vnd.graphviz; charset=utf-8",
            Self::Graphviz { format: "png", .. } => "image/png",
            Self::Graphviz { format: "bmp", .. } => "image/bmp",
            Self::Graphviz { format: "fig", .. } => "application/x-xfig",
            Self::Graphviz { format: "gif", .. } => "image/gif",
            Self::Graphviz { format: "json", .. } => "application/json",
            Self::Graphviz { format: "ps", .. } => "application/postscript",
            Self::Graphviz { .. } => "application/octet-stream",
        }
    }
}

/// Which of the `known` values the query has for `key`; an empty one is none.
fn one_of(
    query: &BTreeMap<String, String>,
    key: &str,
    known: &[&'static str],
) -> Result<Option<&'static str>, Refusal> {
    let Some(asked) = query.get(key).filter(|value| !value.is_empty()) else { return Ok(None) };
    let unknown = || Refusal(StatusCode::BAD_REQUEST, format!("unknown {key}: expected one of {}\n", known.join(", ")));
    known.iter().find(|name| *name == asked).copied().map(Some).ok_or_else(unknown)
}

/// The mesh as a picture, or as the source of one.
pub(super) async fn show(
    State(shared): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Refusal> {
    let picture = Picture::from_query(&query)?;
    let topology = shared.latest()?;
    let body = match picture {
        Picture::Own => draw_own(&shared, topology).await?,
        Picture::Source => topology.dot().into_bytes(),
        Picture::Graphviz { format, layout } => draw(&shared, format, layout, topology.dot()).await?,
    };
    Ok(([(header::CONTENT_TYPE, picture.content_type())], body).into_response())
}

/// A very large mesh takes a moment, which the agent's event loop must not wait for.
async fn draw_own(shared: &Shared, topology: Arc<Topology>) -> Result<Vec<u8>, Refusal> {
    let _one_at_a_time = shared.drawing.acquire().await;
    let drawn = tokio::task::spawn_blocking(move || Graph::new(&topology, &[]).svg().into_bytes()).await;
    drawn.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot draw: {error}\n")))
}

async fn draw(shared: &Shared, format: &str, layout: &str, source: String) -> Result<Vec<u8>, Refusal> {
    let drawn = async {
        // The semaphore is never closed, so this waits and does not fail.
        let _one_at_a_time = shared.drawing.acquire().await;
        run_dot(shared.dot, format, layout, source).await
    };
    let too_long =
        || Refusal(StatusCode::GATEWAY_TIMEOUT, format!("no picture within {} s\n", DRAWING_LIMIT.as_secs()));
    tokio::time::timeout(DRAWING_LIMIT, drawn).await.map_err(|_| too_long())?
}

async fn run_dot(program: &str, format: &str, layout: &str, source: String) -> Result<Vec<u8>, Refusal> {
    let failed = |why: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{program}: {why}\n"));
    let spawned = Command::new(program)
        .args([format!("-K{layout}"), format!("-T{format}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = "ask for format=svg without layout, or for format=dot and draw it elsewhere";
            let advice = format!("Graphviz' program {program} is not installed here: {advice}\n");
            return Err(Refusal(StatusCode::NOT_IMPLEMENTED, advice));
        }
        spawned => spawned.map_err(|error| failed(error.to_string()))?,
    };
    let input = child.stdin.take();
    let write = async {
        if let Some(mut input) = input {
            // A program that ends early says why on its standard error.
            _ = input.write_all(source.as_bytes()).await;
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_known_formats_and_layouts_reach_the_program() {
        let picture = |pairs: &[(&str, &str)]| Picture::from_query(&query(pairs));
        let graphviz = |format, layout| Ok(Picture::Graphviz { format, layout });
        for own in [[].as_slice(), &[("format", "")], &[("format", "svg")], &[("layout", ""), ("format", "svg")]] {
            assert_eq!(picture(own), Ok(Picture::Own), "{own:?}");
        }
        assert_eq!(picture(&[("format", "dot"), ("layout", "fdp")]), Ok(Picture::Source));
        assert_eq!(picture(&[("layout", "fdp")]), graphviz("svg", "fdp"));
        assert_eq!(picture(&[("format", "svg"), ("layout", "circo")]), graphviz("svg", "circo"));
        assert_eq!(picture(&[("format", "json")]), graphviz("json", "circo"));
        for pairs in [[("format", "exe")], [("layout", "-o/etc/passwd")], [("format", "SVG")]] {
            assert_eq!(picture(&pairs).unwrap_err().0, StatusCode::BAD_REQUEST, "{pairs:?}");
        }
    }

    #[tokio::test]
    async fn graphviz_draws_every_format_in_every_layout() {
        use std::io::Write as _;

        if Command::new("dot").arg("-V").output().await.is_err() {
            // Past the test runner's capture.
            _ = writeln!(std::io::stderr(), "skipped: Graphviz is not installed");
            return;
        }
        let begins = [
            ("svg", &b"<?xml"[..]),
            ("png", b"\x89PNG"),
            ("bmp", b"BM"),
            ("fig", b"#FIG"),
            ("gif", b"GIF8"),
            ("json", b"{"),
            ("ps", b"%!PS"),
        ];
        assert_eq!(begins.len(), FORMATS.iter().filter(|format| !["dot", "gv"].contains(format)).count());
        for (format, beginning) in begins {
            for layout in LAYOUTS {
                let drawn = run_dot("dot", format, layout, "digraph kilo { a -> b; a -> \"b c\" }".to_owned()).await;
                let drawn = match drawn {
                    // Not every build of Graphviz has this one; Debian's has not.
                    Err(Refusal(_, why)) if format == "bmp" && why.contains("\"bmp\" not recognized") => continue,
                    drawn => drawn.unwrap_or_else(|refusal| panic!("{format} {layout}: {refusal:?}")),
                };
                assert!(drawn.starts_with(beginning), "{format} {layout}: {:?}", &drawn[..drawn.len().min(20)]);
            }
        }
    }

    #[test]
    fn every_format_has_its_type() {
        let types = FORMATS.map(|format| Picture::from_query(&query(&[("format", format)])).unwrap().content_type());
        assert!(!types.contains(&"application/octet-stream"), "{types:?}");
    }
}
