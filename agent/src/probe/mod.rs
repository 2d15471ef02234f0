//! Active probes, on request: `POST /probe`. What can be asked and what the answers mean is in
//! [`topology::probe`]; here is what sends, waits and counts.
//!
//! Anybody who reaches the agent's HTTP port may ask, so that this must be no weapon and no window:
//! * A request names a node of the agent's own mesh, never an address, and what goes there is a few dozen
//!   small packets with a fixed preamble, or echoes that come back.
//! * One probe runs at a time, or a few knocks, each for a few seconds; others wait, and too many are
//!   refused (`Budget`).
//! * Answers are counts and outcomes. Of the packets that a watch sees nothing is kept or told but how
//!   many were of which kind, and who sent those with the asker's own mark.
//! * A web page cannot make a browser ask: only a body declared as JSON is taken, which needs a consent
//!   (CORS preflight) that the agent does not give.

mod budget;
mod echo;
mod knock;
mod send;
mod watch;

use std::{io, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use topology::{
    InterfaceName, NodeName, Topology,
    probe::{NoWay, Request, Token, Way, mark::Lens},
};

use crate::{http::LatestTopology, os};
use budget::Budget;
use watch::Watch;

/// How long a probe waits for its turn.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many knocks may wait for an answer at once.
const KNOCKS: usize = 8;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No topology was computed yet.
    #[error("the mesh is not known yet: ask again in a few seconds")]
    NoMesh,
    /// The node is not in the mesh, or not behind a tunnel.
    #[error(transparent)]
    NoWay(#[from] NoWay),
    /// This node has no tunnel of its own.
    #[error("node/{own} does not lead its segment: ask node/{leader}")]
    NotALeader {
        /// This node.
        own: NodeName,
        /// Who leads.
        leader: NodeName,
    },
    /// One of the nodes has no pod CIDR of the family.
    #[error("node/{own} and node/{node} do not both have {family} pods")]
    NoPods {
        /// This node.
        own: NodeName,
        /// The other one.
        node: NodeName,
        /// The family.
        family: topology::probe::Family,
    },
    /// No watch with this token runs.
    #[error("no watch for {0} runs: it ends after {limit} s, or was never begun", limit = topology::probe::WATCH_SECONDS)]
    NoWatch(Token),
    /// Too many requests.
    #[error("too many probes: ask again in a few seconds")]
    Busy,
    /// The kernel refused.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host's interfaces could not be read.
    #[error(transparent)]
    Host(#[from] os::Error),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Answer(#[from] serde_json::Error),
}

impl ProbeError {
    fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}

/// Runs the probes of one agent.
pub struct Prober {
    name: NodeName,
    interface: InterfaceName,
    topology: LatestTopology,
    turn: Semaphore,
    knocks: Semaphore,
    budget: Mutex<Budget>,
    watch: Mutex<Option<Watch>>,
}

impl Prober {
    /// The prober of the node `name`, whose WireGuard interface is `interface`.
    pub fn new(name: NodeName, interface: InterfaceName, topology: LatestTopology) -> Self {
        Self {
            name,
            interface,
            topology,
            turn: Semaphore::new(1),
            knocks: Semaphore::new(KNOCKS),
            budget: Mutex::new(Budget::new(Instant::now())),
            watch: Mutex::default(),
        }
    }

    /// Does what `request` asks for; gives the answer that [`Request`] names.
    pub async fn probe(&self, request: Request) -> Result<Value, ProbeError> {
        // Taking counts ends a watch: that must always be possible.
        if !matches!(request, Request::Count { .. }) && !self.budget.lock().await.take(Instant::now()) {
            return Err(ProbeError::Busy);
        }
        match request {
            Request::Count { token } => answer(self.count(token).await?),
            Request::Watch { node, token } => answer(self.watch(&node, token).await?),
            Request::Mtu { node } => {
                let (way, _turn) = (self.way_as_leader(&node)?, turn(&self.turn).await?);
                answer(echo::largest(&self.interface, &way).await?)
            }
            Request::Knock { node, token } => {
                let (way, _turn) = (self.way(&node)?, turn(&self.knocks).await?);
                answer(knock::knock(&self.name, &way, &token).await?)
            }
            Request::Send { node, token, family } => {
                let (way, _turn) = (self.way(&node)?, turn(&self.turn).await?);
                let no_pods = || ProbeError::NoPods { own: self.name.clone(), node, family };
                let ends = way.ends(family).ok_or_else(no_pods)?;
                answer(send::send(ends, &token.marked(family)).await?)
            }
        }
    }

    fn topology(&self) -> Result<Arc<Topology>, ProbeError> {
        self.topology.borrow().clone().ok_or(ProbeError::NoMesh)
    }

    fn way(&self, node: &NodeName) -> Result<Way, ProbeError> {
        Ok(Way::between(&*self.topology()?, &self.name, node)?)
    }

    fn way_as_leader(&self, node: &NodeName) -> Result<Way, ProbeError> {
        let topology = self.topology()?;
        let leader = topology.segment_of(&self.name).map(|segment| &segment.leader().name);
        match leader.filter(|leader| **leader != self.name) {
            Some(leader) => Err(ProbeError::NotALeader { own: self.name.clone(), leader: leader.clone() }),
            None => self.way(node),
        }
    }

    /// Begins a watch, unless one runs that somebody else waits for. Asked for twice it begins anew: the
    /// first answer may have been lost on its way.
    async fn watch(&self, node: &NodeName, token: Token) -> Result<topology::probe::Watching, ProbeError> {
        let way = self.way(node)?;
        let topology = self.topology()?;
        let members = topology.segments.iter().flat_map(|segment| &segment.members);
        let mut nodes: Vec<NodeName> = members.map(|member| member.name.clone()).collect();
        nodes.sort();
        let lens = Lens { token, port: way.listen_port, here: way.here, there: way.there, nodes };
        let mut place = self.watch.lock().await;
        if place.as_ref().is_some_and(|watch| watch.is_running() && watch.token() != token) {
            return Err(ProbeError::Busy);
        }
        let (watch, watching) = Watch::begin(&self.interface, &way.own_pods, lens).await?;
        *place = Some(watch);
        Ok(watching)
    }

    async fn count(&self, token: Token) -> Result<topology::probe::Sightings, ProbeError> {
        let watch = self.watch.lock().await.take_if(|watch| watch.token() == token);
        watch.ok_or(ProbeError::NoWatch(token))?.end().await
    }
}

async fn turn(places: &Semaphore) -> Result<SemaphorePermit<'_>, ProbeError> {
    // The semaphore is never closed.
    timeout(PATIENCE, places.acquire()).await.ok().and_then(Result::ok).ok_or(ProbeError::Busy)
}

fn answer(found: impl Serialize) -> Result<Value, ProbeError> {
    Ok(serde_json::to_value(found)?)
}
