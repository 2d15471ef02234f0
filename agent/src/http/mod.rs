//! What the agent shows over HTTP: `/health`, `/livez`, `/readyz`, `/metrics`, a picture of the mesh at `/graph` and what it
//! knows of its own part at `/status`, all that as a page at `/`, what it knows of its host at `/diagnose`; and what it tries on request, at
//! `/probe`.
//!
//! Whoever reaches the port may ask for health, and who else may ask for the rest `--http-allow` says: by default
//! everybody, so nothing here is secret, and no number of requests costs much.

mod access;
pub(crate) mod connections;
mod diagnose;
mod graph;
mod health;
mod others;
mod page;
mod probe;
mod status;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use topology::{
    Topology,
    doctor::diagnosis::PATH as DIAGNOSE,
    health::{Limits, checks},
    probe::PATH as PROBE,
    report,
};

pub use access::{Allow, NodeAddresses};
pub use status::{Question, Reporter, Statistics};

use self::others::Others;
use crate::{
    diagnose::Diagnoser,
    health::Pulse,
    metrics::{self, Metrics},
    probe::Prober,
};

/// The newest topology, once there is one.
pub type LatestTopology = watch::Receiver<Option<Arc<Topology>>>;

/// The Content Security Policy (<https://www.w3.org/TR/CSP3/>) of all but the page: nothing is loaded and nothing runs.
/// Pictures have a style sheet of their own.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// What the handlers read.
#[derive(Clone)]
pub struct Shared {
    metrics: Arc<Metrics>,
    pulse: Pulse,
    stop: CancellationToken,
    topology: LatestTopology,
    reporter: Arc<Reporter>,
    prober: Arc<Prober>,
    diagnoser: Arc<Diagnoser>,
    others: Arc<Others>,
    /// How old may be what the agent says it did.
    limits: Limits,
    /// Who may see more than health.
    allow: Arc<[Allow]>,
    nodes: NodeAddresses,
    /// One drawing at a time: whoever can reach the port must not be able to fill the machine.
    drawing: Arc<Semaphore>,
    /// Graphviz' program.
    dot: &'static str,
}

/// What there is to show, and who looks and tries on request.
pub struct Sources {
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Whether the event loop turns.
    pub pulse: Pulse,
    /// Whether the agent was asked to end.
    pub stop: CancellationToken,
    /// The mesh.
    pub topology: LatestTopology,
    /// What the agent did, and what its device says.
    pub reporter: Reporter,
    /// Who tries paths.
    pub prober: Prober,
    /// Who looks at the host.
    pub diagnoser: Diagnoser,
    /// Where the nodes are.
    pub nodes: NodeAddresses,
}

impl Shared {
    /// Shows `sources`, judged by `limits`, to those whom one of `allow` admits. Other agents listen at `port`.
    pub fn new(sources: Sources, limits: Limits, allow: Vec<Allow>, port: u16) -> Self {
        let Sources { metrics, pulse, stop, topology, reporter, prober, diagnoser, nodes } = sources;
        let allow = allow.into();
        let (reporter, prober, diagnoser) = (Arc::new(reporter), Arc::new(prober), Arc::new(diagnoser));
        let (drawing, others) = (Arc::new(Semaphore::new(1)), Arc::new(Others::new(port)));
        Self {
            metrics,
            pulse,
            stop,
            topology,
            reporter,
            prober,
            diagnoser,
            others,
            limits,
            allow,
            nodes,
            drawing,
            dot: "dot",
        }
    }
}

impl Shared {
    /// The newest topology.
    fn latest(&self) -> Result<Arc<Topology>, Refusal> {
        let unknown = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "the mesh is not known yet\n".to_owned());
        self.topology.borrow().clone().ok_or_else(unknown)
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

/// Serves for as long as it is let.
pub async fn serve(listener: TcpListener, shared: Shared) {
    let health = Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz));
    let rest = Router::new()
        .route("/", get(page::page))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/mesh", get(page::mesh))
        .route("/metrics", get(show_metrics))
        .route("/graph", get(graph::show))
        .route(report::PATH, get(status::show))
        .route(DIAGNOSE, get(diagnose::show))
        .route(PROBE, post(probe::run).layer(DefaultBodyLimit::max(probe::LONGEST)))
        .layer(middleware::from_fn_with_state(shared.clone(), access::check));
    let app = health.merge(rest).with_state(shared).layer(middleware::map_response(harmless));
    let never = CancellationToken::new();
    connections::take(listener, never.clone(), |stream, from| {
        connections::converse(stream, from, app.clone(), never.clone())
    })
    .await;
}

/// What browsers may make of an answer, unless it says that itself: what it is declared to be, and nothing that acts.
/// Names in it are anybody's who may write to the cluster.
async fn harmless(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    answer
}

async fn show_metrics(State(shared): State<Shared>) -> Response {
    let report = shared.reporter.report().await;
    match shared.metrics.encode(&report, &checks(&report, shared.limits)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Args;
    use clap::Parser;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
    };
    use topology::{Granularity, Input, report::Report};

    /// One that nobody answers.
    fn reporter() -> Reporter {
        let (_, report) = watch::channel(Report::new("a".into(), "1.2.3", "kilo0".into()));
        Reporter::new(report, mpsc::channel(1).0)
    }

    fn diagnoser() -> Diagnoser {
        let options = Args::parse_from(["kg", "--encapsulate=never"]).validate().unwrap();
        Diagnoser::new(&options, watch::channel(Report::new("a".into(), "1.2.3", "kilo0".into())).1)
    }

    pub(super) fn shared(pulse: Pulse, topology: LatestTopology) -> Shared {
        let prober = Prober::new("a".into(), "kilo0".into(), topology.clone());
        let limits = Limits { watch: Duration::from_secs(90), applied: Duration::from_secs(150) };
        let (metrics, reporter, diagnoser) = (Arc::default(), reporter(), diagnoser());
        let stop = CancellationToken::new();
        let nodes = NodeAddresses::default();
        let sources = Sources { metrics, pulse, stop, topology, reporter, prober, diagnoser, nodes };
        Shared::new(sources, limits, vec![Allow::Any], 1)
    }

    /// The status line and the body of what a server with `topology` answers to `path`.
    async fn ask(path: &str, topology: Option<Arc<Topology>>, dot: &'static str) -> (String, String) {
        send(&format!("GET {path} HTTP/1.1\r\nHost: kg\r\nConnection: close\r\n\r\n"), topology, dot).await
    }

    async fn send(request: &str, topology: Option<Arc<Topology>>, dot: &'static str) -> (String, String) {
        let (head, body) = exchange(request, topology, dot).await;
        (head.lines().next().unwrap().to_owned(), body)
    }

    /// As [`send`], with all headers.
    async fn exchange(request: &str, topology: Option<Arc<Topology>>, dot: &'static str) -> (String, String) {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_sender, receiver) = watch::channel(topology);
        let pulse = Pulse::new(Duration::from_secs(30));
        let shared = Shared { dot, ..shared(pulse, receiver) };
        let server = tokio::spawn(serve(listener, shared));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
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
            ("/livez", "200", "[+]loop ok\nlivez check passed\n"),
            ("/readyz", "503", "[-]mesh failed: nothing was applied to the host yet\n"),
            ("/metrics", "200", "kilo_leader 0"),
            ("/graph?format=dot", "200", "digraph kilo"),
            ("/graph?format=exe", "400", "unknown format"),
            ("/graph?layout=exe", "400", "unknown layout"),
            ("/graph", "200", "<svg "),
            ("/graph?format=svg", "200", "<svg "),
            ("/graph?layout=circo", "501", "ask for format=svg without layout"),
            ("/graph?format=json", "501", "is not installed here"),
            ("/status", "200", "\"node\":\"a\""),
            ("/diagnose", "200", "\"clockMs\":"),
            ("/", "200", "<script src=\"page.js\""),
            ("/page.js", "200", "\"use strict\""),
            ("/page.css", "200", ":root"),
            ("/mesh", "200", "\"links\": []"),
            ("/status?node=b", "404", "no leader of this mesh has this name"),
            ("/status?node=a", "200", "\"node\":\"a\""),
            ("/other", "404", ""),
        ] {
            let (head, found) = ask(path, empty_mesh(), "a-program-that-is-not-there").await;
            assert!(head.contains(status) && found.contains(body), "{path}: {head}: {found}");
        }
        for path in ["/graph?format=dot", "/mesh", "/status?node=b"] {
            assert!(ask(path, None, "dot").await.0.contains("503"), "{path}");
        }
    }

    #[tokio::test]
    async fn browsers_make_nothing_of_an_answer_but_what_it_is() {
        let paths = ["/", "/page.js", "/health", "/readyz", "/metrics", "/mesh", "/status", "/diagnose", "/graph"];
        let refused = ["/graph?format=exe", "/status?node=b", "/probe", "/other"];
        for path in paths.into_iter().chain(refused) {
            let request = format!("GET {path} HTTP/1.1\r\nHost: kg\r\nConnection: close\r\n\r\n");
            let (head, _) = exchange(&request, empty_mesh(), "dot").await;
            for header in ["x-content-type-options: nosniff", "referrer-policy: no-referrer"] {
                assert_eq!(head.lines().filter(|line| *line == header).count(), 1, "{path}: {head}");
            }
            let policies: Vec<_> =
                head.lines().filter_map(|line| line.strip_prefix("content-security-policy: ")).collect();
            let scripts = ["/", "/page.js"].contains(&path);
            assert_eq!(policies.len(), 1, "{path}: {head}");
            assert!(policies[0].starts_with("default-src 'none'; "), "{path}: {head}");
            assert_eq!(policies[0].contains("script-src 'self'"), scripts, "{path}: {head}");
        }
    }

    /// A web site that gave its own name an address of this host.
    #[tokio::test]
    async fn web_sites_are_told_nothing_by_way_of_the_host() {
        for (host, status) in [("evil.example:1107", "421"), ("localhost:1107", "200"), ("127.0.0.1", "200")] {
            let request = format!("GET /status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let (line, body) = send(&request, empty_mesh(), "dot").await;
            assert!(line.contains(status), "{host}: {line}: {body}");
        }
        assert!(send("GET /status HTTP/1.0\r\n\r\n", empty_mesh(), "dot").await.0.contains("200"));
    }

    /// Anybody may send anything to this port.
    #[tokio::test]
    async fn only_probes_of_the_mesh_are_taken() {
        let mtu = r#"{"mtu":{"node":"b"}}"#;
        let count = r#"{"count":{"token":"00112233445566778899aabbccddeeff"}}"#;
        let knock = r#"{"knock":{"node":"b","address":"192.0.2.1","token":"00112233445566778899aabbccddeeff"}}"#;
        let (json, text) = ("application/json; charset=utf-8", "text/plain");
        for (kind, body, mesh, status, answer) in [
            (json, mtu, None, "503", "not known yet"),
            (json, mtu, empty_mesh(), "409", "is not part of the mesh"),
            (json, count, empty_mesh(), "410", "no watch for 00112233445566778899aabbccddeeff runs"),
            (json, knock, empty_mesh(), "400", "unknown field `address`"),
            (json, "garbage", empty_mesh(), "400", "this is no probe"),
            (json, &"x".repeat(2000), empty_mesh(), "413", ""),
            (text, mtu, empty_mesh(), "415", "application/json"),
        ] {
            let length = body.len();
            let head = format!("POST /probe HTTP/1.1\r\nHost: kg\r\nContent-Type: {kind}\r\nContent-Length: {length}");
            let request = format!("{head}\r\nConnection: close\r\n\r\n{body}");
            let (line, found) = send(&request, mesh, "dot").await;
            assert!(line.contains(status) && found.contains(answer), "{body}: {line}: {found}");
        }
        assert!(ask("/probe", empty_mesh(), "dot").await.0.contains("405"));
    }

    #[tokio::test]
    async fn a_program_that_fails_or_succeeds_is_heard() {
        // cat takes no such options; true reads no input.
        assert!(ask("/graph?format=png", empty_mesh(), "cat").await.0.contains("500"));
        assert!(ask("/graph?format=png", empty_mesh(), "true").await.0.contains("200"));
    }
}
