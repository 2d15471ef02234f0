//! The connections of an HTTP server: never more than [`PLACES`] at a time, whoever opens them.
//!
//! The ports are on the host's network, and who may ask what is known only once a request was read. So a connection that
//! asks nothing has to cost nothing that others need: with all places taken, the next one gets the place of whoever
//! holds most of them. However many one source opens, a probe by the kubelet finds its place.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Connections at a time: fewer than the 1,024 descriptors that a process has where nobody raised their number.
const PLACES: usize = 256;

/// How long a connection may take to send the head of its next request. Go's clients, the API server among them, keep an
/// idle connection for 90 s; that they are first to close it spares them a request into a closed one.
const IDLE_LIMIT: Duration = Duration::from_secs(120);

/// How long to wait when a connection cannot be taken, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections and lets `serve` have them, until `stop`; then waits for those there are.
pub(crate) async fn take<F>(listener: TcpListener, stop: CancellationToken, serve: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Mutex::new(Places::new(PLACES)));
    let mut served = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = served.join_next() => continue,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, from)) => match Place::take(&places, from.ip()) {
                Some(place) => _ = served.spawn(place.hold(serve(stream, from))),
                None => debug!(%from, "no place for a connection"),
            },
            Err(why) => {
                warn!(error = %why, "a connection was not taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while served.join_next().await.is_some() {}
}

/// Answers the requests that come through `stream` until its other end closes it or is silent for too long, or, after
/// `stop`, the one that is under way.
pub(crate) async fn converse<S>(stream: S, from: SocketAddr, app: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(from));
        app.call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(why) = ended {
        debug!(%from, error = %why, "a connection ended");
    }
}

/// Whose a connection is: an IPv4 address, or the /64 of an IPv6 one, all of which a host can give itself (RFC 4291, 2.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address => Self(address),
        }
    }
}

/// Who has a place, oldest first, each with what ends it.
struct Places {
    limit: usize,
    held: BTreeMap<Source, VecDeque<(u64, CancellationToken)>>,
    /// Connections so far: the next one's number.
    number: u64,
    /// Whether it was told that there are none left; once, until half of them are free.
    told: bool,
}

impl Places {
    fn new(limit: usize) -> Self {
        Self { limit, held: BTreeMap::new(), number: 0, told: false }
    }

    fn count(&self) -> usize {
        self.held.values().map(VecDeque::len).sum()
    }

    fn of(&self, source: Source) -> usize {
        self.held.get(&source).map_or(0, VecDeque::len)
    }

    /// A place for one of `source`: its number, and what says that it has to be left. None if all are taken and nobody has
    /// more than `source`.
    fn take(&mut self, source: Source) -> Option<(u64, CancellationToken)> {
        if self.count() >= self.limit {
            self.free_for(source)?;
        }
        self.number += 1;
        let place = (self.number, CancellationToken::new());
        self.held.entry(source).or_default().push_back(place.clone());
        Some(place)
    }

    /// Ends the oldest connection of whoever has most; among equals, the oldest of all.
    fn free_for(&mut self, source: Source) -> Option<()> {
        let most =
            self.held.iter().max_by_key(|(_, held)| (held.len(), Reverse(held.front().map(|(number, _)| *number))));
        let (most, held) = most.map(|(source, held)| (*source, held.len()))?;
        if !std::mem::replace(&mut self.told, true) {
            warn!(connections = self.limit, most = %most.0, held, "all places for connections are taken: who has most loses some");
        }
        if held <= self.of(source) {
            return None;
        }
        let (number, ended) = self.held.get(&most)?.front()?.clone();
        ended.cancel();
        self.leave(most, number);
        Some(())
    }

    /// Does nothing if somebody else has the place already.
    fn leave(&mut self, source: Source, number: u64) {
        let Some(held) = self.held.get_mut(&source) else { return };
        held.retain(|(other, _)| *other != number);
        if held.is_empty() {
            self.held.remove(&source);
        }
        self.told &= self.count() * 2 > self.limit;
    }
}

/// A connection's place, which is free again when this is dropped.
struct Place {
    places: Arc<Mutex<Places>>,
    source: Source,
    number: u64,
    ended: CancellationToken,
}

impl Place {
    fn take(places: &Arc<Mutex<Places>>, from: IpAddr) -> Option<Self> {
        let source = from.into();
        let (number, ended) = lock(places).take(source)?;
        Some(Self { places: places.clone(), source, number, ended })
    }

    /// Runs `task` for as long as the place is its own.
    async fn hold(self, task: impl Future<Output = ()>) {
        tokio::select! {
            () = task => {}
            () = self.ended.cancelled() => debug!(source = %self.source.0, "a connection gave its place to another"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places).leave(self.source, self.number);
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{http::StatusCode, routing::get};
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn one_network_is_one_source() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(source(one) == source(other), same, "{one} and {other}");
        }
    }

    #[test]
    fn who_has_most_gives_way() {
        let (many, few, new) = (source("192.0.2.1"), source("192.0.2.2"), source("192.0.2.3"));
        let mut places = Places::new(4);
        let first = places.take(many).unwrap();
        let second = places.take(many).unwrap();
        places.take(few).unwrap();
        places.take(many).unwrap();
        assert!(places.take(many).is_none(), "who has most gets no more");
        assert!(!first.1.is_cancelled());

        places.take(new).unwrap();
        assert!(first.1.is_cancelled() && !second.1.is_cancelled(), "the oldest one goes");
        places.take(new).unwrap_or_else(|| panic!("two are more than one"));
        assert!(places.take(new).is_none(), "two are not more than two");
        assert_eq!((places.of(many), places.of(few), places.of(new)), (1, 1, 2));

        places.leave(many, first.0);
        assert_eq!(places.of(many), 1, "a place that was given away cannot be left");
        places.leave(many, second.0);
        assert_eq!(places.count(), 4, "nor that one");
    }

    #[test]
    fn whoever_has_none_gets_one() {
        let mut places = Places::new(8);
        let tokens: Vec<_> =
            (1..=8).map(|host| places.take(Source(Ipv4Addr::new(192, 0, 2, host).into())).unwrap().1).collect();
        places.take(source("198.51.100.1")).unwrap();
        assert_eq!(tokens.iter().filter(|token| token.is_cancelled()).count(), 1);
        assert!(tokens[0].is_cancelled());
        assert!(places.take(source("198.51.100.1")).is_none());
    }

    #[test]
    fn a_place_is_free_again() {
        let places = Arc::new(Mutex::new(Places::new(1)));
        let address = "192.0.2.1".parse().unwrap();
        let place = Place::take(&places, address).unwrap();
        assert!(Place::take(&places, address).is_none());
        drop(place);
        assert!(lock(&places).held.is_empty());
        assert!(Place::take(&places, address).is_some());
    }

    /// A server at the address returned, until `stop`.
    async fn start(stop: &CancellationToken) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("[::]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/health", get(StatusCode::OK));
        let stopped = stop.clone();
        let serve = move |stream, from| converse(stream, from, app.clone(), stopped.clone());
        let server = tokio::spawn(take(listener, stop.clone(), serve));
        (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), server)
    }

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: kg\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_out() {
        let (address, _server) = start(&CancellationToken::new()).await;
        let mut silent = Vec::new();
        for _ in 0..PLACES + 50 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let from_elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
        from_elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut probe = from_elsewhere.connect(address).await.unwrap();
        assert!(ask(&mut probe).await.starts_with("HTTP/1.1 200"), "another source is served");
        assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0, "the oldest was closed");
        assert_eq!(silent[PLACES].read(&mut [0]).await.unwrap_or_default(), 0, "those above the limit were not taken");
        assert!(ask(&mut silent[1]).await.starts_with("HTTP/1.1 200"), "the others are kept");
    }

    #[tokio::test]
    async fn who_is_silent_for_long_is_let_go() {
        let (address, _server) = start(&CancellationToken::new()).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut idle).await.starts_with("HTTP/1.1 200"));
        tokio::time::pause(); // from here, time is what is waited for
        for stream in [&mut silent, &mut half, &mut idle] {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
        }
    }

    #[tokio::test]
    async fn a_stop_waits_for_nobody_who_is_idle() {
        let stop = CancellationToken::new();
        let (address, server) = start(&stop).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut idle).await.starts_with("HTTP/1.1 200"));
        stop.cancel();
        server.await.unwrap();
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
