//! What the agent shows over HTTP: `/health`, `/metrics` and a picture of the mesh at `/graph`.

use std::{collections::BTreeMap, process::Stdio, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    process::Command,
    sync::{Semaphore, watch},
};
use topology::Topology;

use crate::{
    health::Pulse,
    metrics::{self, Metrics},
};

/// How long Graphviz may draw; some layouts of some graphs take forever.
const DRAWING_LIMIT: Duration = Duration::from_secs(20);

/// The newest topology, once there is one.
pub type LatestTopology = watch::Receiver<Option<Arc<Topology>>>;

/// What the handlers read.
#[derive(Clone)]
pub struct Shared {
    metrics: Arc<Metrics>,
    pulse: Pulse,
    topology: LatestTopology,
    /// One drawing at a time: whoever can reach the port must not be able to fill the machine.
    drawing: Arc<Semaphore>,
    /// Graphviz' program.
    dot: &'static str,
}

impl Shared {
    /// Shows `metrics`, `pulse` and `topology`.
    pub fn new(metrics: Arc<Metrics>, pulse: Pulse, topology: LatestTopology) -> Self {
        Self { metrics, pulse, topology, drawing: Arc::new(Semaphore::new(1)), dot: "dot" }
    }
}

/// Binds `address`, `host:port`. A host without IPv6 gets what `[::]` stands for elsewhere.
pub async fn listen(address: &str) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => match address.strip_prefix("[::]") {
            Some(port) => TcpListener::bind(format!("0.0.0.0{port}")).await,
            None => Err(error),
        },
        result => result,
    }
}

/// Serves until the listener fails for good.
pub async fn serve(listener: TcpListener, shared: Shared) -> std::io::Result<()> {
    let app = Router::new()
        .route("/health", get(show_health))
        .route("/metrics", get(show_metrics))
        .route("/graph", get(show_graph))
        .with_state(shared);
    axum::serve(listener, app).await
}

async fn show_health(State(shared): State<Shared>) -> Result<StatusCode, Refusal> {
    match shared.pulse.stopped_for() {
        None => Ok(StatusCode::OK),
        Some(age) => {
            let message = format!("the event loop has not turned for {} s\n", age.as_secs());
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, message))
        }
    }
}

async fn show_metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// An answer that is not what was asked for, and why.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

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

async fn show_graph(
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
    use tokio::io::AsyncReadExt;
    use topology::{Granularity, Input};

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

    /// The status line and the body of what a server with `topology` answers to `path`.
    async fn ask(path: &str, topology: Option<Arc<Topology>>, dot: &'static str) -> (String, String) {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_sender, receiver) = watch::channel(topology);
        let shared = Shared { dot, ..Shared::new(Arc::default(), Pulse::new(Duration::from_secs(30)), receiver) };
        let server = tokio::spawn(serve(listener, shared));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: kg\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    fn empty_mesh() -> Option<Arc<Topology>> {
        let input = Input {
            nodes: vec![],
            peers: vec![],
            granularity: Granularity::Location,
            subnets: &["10.4.0.0/16".parse().unwrap()],
        };
        Some(Arc::new(Topology::build(&input).unwrap()))
    }

    #[tokio::test]
    async fn each_path_answers() {
        for (path, status, body) in [
            ("/health", "200", ""),
            ("/metrics", "200", "kilo_leader 0"),
            ("/graph?format=dot", "200", "digraph kilo"),
            ("/graph?format=exe", "400", "unknown format"),
            ("/graph?layout=exe", "400", "unknown layout"),
            ("/graph", "501", "ask for format=dot"),
            ("/other", "404", ""),
        ] {
            let (head, found) = ask(path, empty_mesh(), "a-program-that-is-not-there").await;
            assert!(head.contains(status) && found.contains(body), "{path}: {head}: {found}");
        }
        assert!(ask("/graph?format=dot", None, "dot").await.0.contains("503"));
    }

    #[tokio::test(start_paused = true)]
    async fn health_is_that_of_the_loop() {
        let pulse = Pulse::new(Duration::ZERO);
        let (_sender, receiver) = watch::channel(None);
        let shared = Shared::new(Arc::default(), pulse.clone(), receiver);
        let ask = || show_health(State(shared.clone()));
        assert_eq!(ask().await, Ok(StatusCode::OK));
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(ask().await.unwrap_err().0, StatusCode::SERVICE_UNAVAILABLE);
        pulse.beat();
        assert_eq!(ask().await, Ok(StatusCode::OK));
    }

    #[tokio::test]
    async fn a_program_that_fails_or_succeeds_is_heard() {
        // cat takes no such options; true reads no input.
        assert!(ask("/graph?format=svg", empty_mesh(), "cat").await.0.contains("500"));
        assert!(ask("/graph?format=svg", empty_mesh(), "true").await.0.contains("200"));
    }
}
