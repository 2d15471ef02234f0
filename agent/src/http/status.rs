//! What the agent tells of its node at `/status`: see [`topology::report`].
//!
//! The event loop says what it did, through a channel; the device is asked for its statistics, through
//! the loop, which owns it; and the way to each peer is measured. All of that is done at most so often
//! and by one request at a time, whoever asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::future::BoxFuture;
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use topology::{
    PeerStatistics, PublicKey,
    report::{Batch, Problem, Report, unix_seconds},
};

use super::{Refusal, Shared};
use crate::ping;

/// So long a document is shown to all who ask.
const FRESH: Duration = Duration::from_millis(500);

/// The ways to the peers are measured no more often than this.
const ECHO_PERIOD: Duration = Duration::from_secs(5);

/// How long the event loop may take to answer; it may be waiting for a program or the kernel.
const LOOP_LIMIT: Duration = Duration::from_secs(1);

/// What only the device, and who watches it, can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The peers as they are now.
    pub peers: Vec<PeerStatistics>,
    /// How often each was seen at another endpoint.
    pub moves: BTreeMap<PublicKey, u64>,
    /// Packets that the device dropped, by cause.
    pub drops: BTreeMap<&'static str, u64>,
    /// What its system calls moved, by kind.
    pub batches: BTreeMap<&'static str, Batch>,
}

/// Asks the event loop for the device's statistics.
pub type Question = oneshot::Sender<Statistics>;

type RoundTrips = BTreeMap<IpAddr, Duration>;

/// Measures round trips.
type Echo = Arc<dyn Fn(BTreeSet<IpAddr>) -> BoxFuture<'static, io::Result<RoundTrips>> + Send + Sync>;

/// Collects what is told at `/status`.
pub struct Reporter {
    report: watch::Receiver<Report>,
    questions: mpsc::Sender<Question>,
    echo: Echo,
    memory: Mutex<Memory>,
}

/// What was found last.
#[derive(Default)]
struct Memory {
    report: Option<(Instant, Arc<Report>)>,
    /// When measuring began.
    echoed: Option<Instant>,
    round_trips: RoundTrips,
    /// Why nothing could be measured.
    silence: Option<String>,
}

impl Reporter {
    /// Tells what the event loop shows in `report` and answers to `questions`.
    pub fn new(report: watch::Receiver<Report>, questions: mpsc::Sender<Question>) -> Self {
        let echo = Arc::new(|addresses| Box::pin(ping::round_trips(addresses)) as BoxFuture<'static, _>);
        Self { report, questions, echo, memory: Mutex::default() }
    }

    /// The own Node's name.
    pub(super) fn node(&self) -> String {
        self.report.borrow().node.as_str().to_owned()
    }

    /// What there is to tell at this moment.
    pub(super) async fn report(&self) -> Arc<Report> {
        let mut memory = self.memory.lock().await;
        if let Some((_, report)) = memory.report.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return report.clone();
        }
        let mut report = self.report.borrow().clone();
        let addresses = report.peers.iter().filter_map(|peer| peer.address).collect();
        let (statistics, ()) = tokio::join!(self.statistics(), memory.measure(&self.echo, addresses));
        report.time = unix_seconds(SystemTime::now());
        match statistics {
            Some(Statistics { peers, moves, drops, batches }) => {
                report.add_statistics(&peers, &moves);
                report.drops = drops.into_iter().map(|(cause, count)| (cause.to_owned(), count)).collect();
                report.batches = batches.into_iter().map(|(call, batch)| (call.to_owned(), batch)).collect();
            }
            None => {
                report.problems.push(problem("statistics", "neither the event loop nor the device gives an answer"))
            }
        }
        report.add_round_trips(&memory.round_trips);
        report.problems.extend(memory.silence.as_deref().map(|why| problem("echo", why)));
        let report = Arc::new(report);
        memory.report = Some((Instant::now(), report.clone()));
        report
    }

    async fn statistics(&self) -> Option<Statistics> {
        let asked = async {
            let (question, answer) = oneshot::channel();
            self.questions.send(question).await.ok()?;
            answer.await.ok()
        };
        timeout(LOOP_LIMIT, asked).await.ok().flatten()
    }
}

impl Memory {
    /// Measures the ways to `addresses`, unless that was done, or begun, only just now: a client that
    /// goes away meanwhile must not make the next one begin anew.
    async fn measure(&mut self, echo: &Echo, addresses: BTreeSet<IpAddr>) {
        if self.echoed.is_some_and(|at| at.elapsed() < ECHO_PERIOD) {
            return;
        }
        self.echoed = Some(Instant::now());
        (self.round_trips, self.silence) = match echo(addresses).await {
            Ok(round_trips) => (round_trips, None),
            Err(error) => (RoundTrips::new(), Some(error.to_string())),
        };
    }
}

fn problem(doing: &str, error: &str) -> Problem {
    Problem { doing: doing.to_owned(), error: error.to_owned() }
}

/// The document; with `?node=NAME` that of another leader.
pub(super) async fn show(
    State(shared): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Refusal> {
    let report = match query.get("node") {
        Some(name) if *name != shared.reporter.node() => shared.others.report(name, &*shared.latest()?).await?,
        _ => shared.reporter.report().await,
    };
    let document = serde_json::to_vec(&*report);
    let document = document.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], document).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use topology::report::PeerReport;

    const FAR: &str = "10.4.0.2";

    fn report() -> Report {
        let peer = PeerReport {
            label: "location:b".to_owned(),
            public_key: PublicKey::new([1; 32]).unwrap(),
            endpoint: None,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            endpoint_changes: 0,
            allowed_ips: 1,
            address: FAR.parse().ok(),
            rtt_microseconds: None,
        };
        Report { peers: vec![peer], ..Report::new("a".into(), "1.2.3", "kilo0".into()) }
    }

    /// A reporter whose echoes are counted and end as `echo` says, and the questions that it asks.
    fn reporter(echo: fn() -> BoxFuture<'static, io::Result<RoundTrips>>) -> TestBed {
        let (_, report) = watch::channel(report());
        let (sender, questions) = mpsc::channel(1);
        let rounds = Arc::new(AtomicUsize::new(0));
        let counted = rounds.clone();
        let echo: Echo = Arc::new(move |addresses| {
            assert_eq!(addresses, [FAR.parse().unwrap()].into());
            counted.fetch_add(1, Ordering::Relaxed);
            echo()
        });
        (Arc::new(Reporter { echo, ..Reporter::new(report, sender) }), questions, rounds)
    }

    type TestBed = (Arc<Reporter>, mpsc::Receiver<Question>, Arc<AtomicUsize>);

    fn in_a_millisecond() -> BoxFuture<'static, io::Result<RoundTrips>> {
        Box::pin(async { Ok([(FAR.parse().unwrap(), Duration::from_millis(1))].into()) })
    }

    async fn read(reporter: &Reporter) -> Report {
        Report::clone(&*reporter.report().await)
    }

    fn answer(mut questions: mpsc::Receiver<Question>) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                let rx_bytes = counted.fetch_add(1, Ordering::Relaxed) as u64;
                let key = PublicKey::new([1; 32]).unwrap();
                let peer = PeerStatistics { key, endpoint: None, last_handshake: None, rx_bytes, tx_bytes: 7 };
                _ = question.send(Statistics { peers: vec![peer], ..Statistics::default() });
            }
        });
        count
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_cost_no_more_than_one() {
        let (reporter, questions, rounds) = reporter(in_a_millisecond);
        let asked = answer(questions);
        for _ in 0..100 {
            let found = read(&reporter).await;
            assert_eq!((found.peers[0].tx_bytes, found.peers[0].rtt_microseconds), (7, Some(1000)));
            assert_eq!(found.problems, []);
        }
        assert_eq!((asked.load(Ordering::Relaxed), rounds.load(Ordering::Relaxed)), (1, 1));
        tokio::time::advance(FRESH).await;
        assert_eq!(read(&reporter).await.peers[0].rx_bytes, 1, "statistics are newer");
        assert_eq!(rounds.load(Ordering::Relaxed), 1);
        tokio::time::advance(ECHO_PERIOD).await;
        read(&reporter).await;
        assert_eq!(rounds.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_and_sockets_that_are_refused_are_told() {
        let (reporter, questions, _) = reporter(|| Box::pin(async { Err(io::Error::other("no sockets")) }));
        let found = read(&reporter).await;
        let problems: Vec<_> =
            found.problems.iter().map(|problem| format!("{}: {}", problem.doing, problem.error)).collect();
        assert_eq!(problems, ["statistics: neither the event loop nor the device gives an answer", "echo: no sockets"]);
        assert_eq!(found.peers, report().peers, "what the loop said is told all the same");
        drop(questions);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_hang_up_do_not_make_it_measure_more_often() {
        let (reporter, questions, rounds) = reporter(|| Box::pin(std::future::pending()));
        answer(questions);
        for _ in 0..10 {
            assert!(
                timeout(Duration::from_millis(10), reporter.report()).await.is_err()
                    || rounds.load(Ordering::Relaxed) == 1
            );
        }
        assert_eq!(rounds.load(Ordering::Relaxed), 1);
    }
}
