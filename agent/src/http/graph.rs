//! A picture of the mesh, drawn by Graphviz, with upstream's formats and layouts.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use axum::{
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::{io::AsyncWriteExt, process::Command};

use super::{Refusal, Shared};

/// How long Graphviz may draw; some layouts of some graphs take forever.
const DRAWING_LIMIT: Duration = Duration::from_secs(20);

/// How to draw.
#[derive(Debug, PartialEq, Eq)]
struct Drawing {
    format: &'static str,
    content_type: &'static str,
    layout: &'static str,
}

impl Drawing {
    /// Upstream's formats, layouts and defaults; a text that is not among them never reaches a
    /// command line.
    fn from_query(query: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        const FORMATS: [(&str, &str); 9] = [
            ("svg", "image/svg+xml"),
            ("png", "image/png"),
            ("dot", "text/vnd.graphviz; charset=utf-8"),
            ("gv", "text/vnd.graphviz; charset=utf-8"),
            ("bmp", "image/bmp"),
            ("fig", "application/x-xfig"),
            ("gif", "image/gif"),
            ("json", "application/json"),
            ("ps", "application/postscript"),
        ];
        const LAYOUTS: [&str; 5] = ["circo", "dot", "neato", "twopi", "fdp"];
        let asked = |key: &str| query.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let unknown = |key: &str, known: &str| {
            Refusal(StatusCode::BAD_REQUEST, format!("unknown {key}: expected one of {known}\n"))
        };
        let (format, content_type) = match asked("format") {
            None => FORMATS[0],
            Some(name) => *FORMATS
                .iter()
                .find(|(format, _)| *format == name)
                .ok_or_else(|| unknown("format", &FORMATS.map(|(format, _)| format).join(", ")))?,
        };
        let layout = match asked("layout") {
            None => LAYOUTS[0],
            Some(name) => LAYOUTS
                .into_iter()
                .find(|layout| *layout == name)
                .ok_or_else(|| unknown("layout", &LAYOUTS.join(", ")))?,
        };
        Ok(Self { format, content_type, layout })
    }

    fn is_source(&self) -> bool {
        matches!(self.format, "dot" | "gv")
    }
}

/// The mesh as a picture, or as the source of one.
pub(super) async fn show(
    State(shared): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Refusal> {
    let drawing = Drawing::from_query(&query)?;
    let topology = shared.topology.borrow().clone();
    let topology =
        topology.ok_or_else(|| Refusal(StatusCode::SERVICE_UNAVAILABLE, "the mesh is not known yet\n".to_owned()))?;
    let source = topology.dot();
    let body = if drawing.is_source() { source.into_bytes() } else { draw(&shared, &drawing, source).await? };
    Ok(([(header::CONTENT_TYPE, drawing.content_type)], body).into_response())
}

async fn draw(shared: &Shared, drawing: &Drawing, source: String) -> Result<Vec<u8>, Refusal> {
    let drawn = async {
        // The semaphore is never closed, so this waits and does not fail.
        let _one_at_a_time = shared.drawing.acquire().await;
        run_dot(shared.dot, drawing, source).await
    };
    let too_long =
        || Refusal(StatusCode::GATEWAY_TIMEOUT, format!("no picture within {} s\n", DRAWING_LIMIT.as_secs()));
    tokio::time::timeout(DRAWING_LIMIT, drawn).await.map_err(|_| too_long())?
}

async fn run_dot(program: &str, drawing: &Drawing, source: String) -> Result<Vec<u8>, Refusal> {
    let failed = |why: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{program}: {why}\n"));
    let spawned = Command::new(program)
        .args([format!("-K{}", drawing.layout), format!("-T{}", drawing.format)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = format!("Graphviz' program {program} is not installed: ask for format=dot\n");
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
        let known = Drawing::from_query(&query(&[("format", "png"), ("layout", "fdp")])).unwrap();
        assert_eq!((known.format, known.layout), ("png", "fdp"));
        let default = Drawing::from_query(&query(&[("format", "")])).unwrap();
        assert_eq!((default.format, default.layout), ("svg", "circo"));
        for pairs in [[("format", "exe")], [("layout", "-o/etc/passwd")], [("format", "SVG")]] {
            assert_eq!(Drawing::from_query(&query(&pairs)).unwrap_err().0, StatusCode::BAD_REQUEST, "{pairs:?}");
        }
    }
}
