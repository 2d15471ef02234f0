//! The API server of a lab: started on host `control`, stopped and started again with its state kept.
//!
//! Nodes reach it over the internet of the lab. Everybody else (the tests, `kubectl` in a shell of the
//! machine) uses a forwarder on a loopback port of the machine, so no client has to enter a namespace.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::patience;
use crate::space::{self, Space};
use crate::spec::Api;
use crate::sys;
use crate::underlay::Realm;

/// How long the real API server may take to get ready, times [`patience`].
const READY_LIMIT: Duration = Duration::from_secs(90);
const TOKEN: &str = "lab-admin";
const AGENT_TOKEN: &str = "lab-agent";
/// Who the agents are in a cluster: the service account of the manifests.
pub const AGENT: &str = "system:serviceaccount:kube-system:kilo";

/// The API server and the way to it.
pub struct ApiServer {
    control: Arc<Space>,
    runtime: Handle,
    directory: PathBuf,
    kind: Kind,
    realm: Realm,
    running: Mutex<Option<Running>>,
}

enum Kind {
    Embedded(apiserver::Store),
    Real { kube_apiserver: PathBuf, etcd: PathBuf },
}

enum Running {
    Embedded { stop: oneshot::Sender<()>, task: JoinHandle<io::Result<()>> },
    Real { kube_apiserver: Child, etcd: Child },
}

impl ApiServer {
    /// Starts the server on `control` and writes the kubeconfigs into `directory`.
    pub fn start(api: Api, realm: Realm, control: Arc<Space>, runtime: Handle, directory: &Path) -> Result<ApiServer> {
        let directory = directory.join("api");
        fs::create_dir_all(&directory)?;
        let kind = match api {
            Api::Embedded => Kind::Embedded(apiserver::Store::new()),
            Api::Real => {
                let (kube_apiserver, etcd) = binaries()?;
                make_credentials(&directory, realm.control()).context("make the certificates of the API server")?;
                Kind::Real { kube_apiserver, etcd }
            }
        };
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let forwarder = listener.local_addr()?;
        let target = SocketAddr::from((realm.control(), port(&kind)));
        runtime.spawn(forward(listener, control.clone(), target));
        let server = ApiServer { control, runtime, directory, kind, realm, running: Mutex::new(None) };
        fs::write(server.kubeconfig(), server.kubeconfig_for(forwarder, TOKEN))?;
        fs::write(server.cluster_kubeconfig(), server.kubeconfig_for(target, TOKEN))?;
        fs::write(server.agent_kubeconfig(), server.kubeconfig_for(target, AGENT_TOKEN))?;
        server.resume()?;
        Ok(server)
    }

    /// Kubeconfig for clients on the machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Kubeconfig for clients on hosts of the lab.
    pub fn cluster_kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig-on-hosts")
    }

    /// Kubeconfig for agents, which have no more rights than the manifests give them.
    pub fn agent_kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig-of-agents")
    }

    /// What the real API server has noted of the agents' requests, an `audit.k8s.io/v1` event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.directory.join("audit.log")
    }

    fn kubeconfig_for(&self, server: SocketAddr, token: &str) -> String {
        match self.kind {
            Kind::Embedded(_) => apiserver::kubeconfig(&format!("http://{server}")),
            Kind::Real { .. } => format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
                 clusters:\n- name: lab\n  cluster:\n    server: \"https://{server}\"\n    \
                 certificate-authority: {}\n\
                 users:\n- name: lab\n  user:\n    token: {token}\n\
                 contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: lab\n",
                self.directory.join("ca.crt").display()
            ),
        }
    }

    /// Starts a stopped server, with the state it had; does nothing to a running one.
    pub fn resume(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(match &self.kind {
                Kind::Embedded(store) => self.serve_embedded(store.clone())?,
                Kind::Real { kube_apiserver, etcd } => self.spawn_real(kube_apiserver, etcd)?,
            });
        }
        Ok(())
    }

    /// Stops the server and with it every connection; objects are kept.
    pub fn stop(&self) -> Result<()> {
        match self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(Running::Embedded { stop, task }) => {
                // If the server is gone already, so is the receiver.
                let _ = stop.send(());
                self.runtime.block_on(task)?.context("embedded API server")
            }
            Some(Running::Real { mut kube_apiserver, mut etcd }) => {
                // An outage, not a shutdown: the server would linger on open watches.
                sys::kill(kube_apiserver.id(), libc::SIGKILL)?;
                kube_apiserver.wait()?;
                sys::kill(etcd.id(), libc::SIGTERM)?;
                etcd.wait()?;
                Ok(())
            }
        }
    }

    /// Makes the server refuse everybody `verb` on the resource `plural`, or grant it again. Only the embedded
    /// server can.
    pub fn refuse(&self, verb: &str, plural: &str, refuse: bool) -> Result<()> {
        match &self.kind {
            Kind::Embedded(store) => store.refuse(verb, plural, refuse),
            Kind::Real { .. } => bail!("the lab has only one user of the real API server, who may do everything"),
        }
        Ok(())
    }

    /// Has `verb` on the resource `plural` fail for everybody as in an outage, or work again. Only with the embedded
    /// server.
    pub fn fail(&self, verb: &str, plural: &str, fail: bool) -> Result<()> {
        match &self.kind {
            Kind::Embedded(store) => store.fail(verb, plural, fail),
            Kind::Real { .. } => bail!("the real API server has no outage of one kind of objects"),
        }
        Ok(())
    }

    fn serve_embedded(&self, store: apiserver::Store) -> Result<Running> {
        let address = SocketAddr::from((self.realm.control(), port(&self.kind)));
        let listener = self.control.run(|| std::net::TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let _runtime = self.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = self.runtime.spawn(apiserver::serve_dialing(listener, store, dial_from(&self.control), shutdown));
        Ok(Running::Embedded { stop, task })
    }

    fn spawn_real(&self, kube_apiserver: &Path, etcd: &Path) -> Result<Running> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let etcd = self.spawn_logged(
            "etcd",
            vec![
                etcd.display().to_string(),
                format!("--data-dir={}", file("etcd")),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
                // The state need not survive a power cut, only a restart.
                "--unsafe-no-fsync".into(),
            ],
        )?;
        let mut arguments = vec![
            kube_apiserver.display().to_string(),
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--bind-address={}", self.realm.control()),
            format!("--advertise-address={}", self.realm.control()),
            format!("--secure-port={}", port(&self.kind)),
            "--endpoint-reconciler-type=none".into(),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            // Nodes are in several clouds: their private addresses lead nowhere from here.
            "--kubelet-preferred-address-types=ExternalIP,InternalIP".into(),
            format!("--service-cluster-ip-range={}", self.realm.services()),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("service-account.key")),
            format!("--service-account-signing-key-file={}", file("service-account.key")),
            "--disable-admission-plugins=ServiceAccount".into(),
            // As clusters have it: what is to be replaced by the manifests here may be privileged.
            "--allow-privileged=true".into(),
            "--profiling=false".into(),
            format!("--audit-policy-file={}", file("audit-policy.yaml")),
            format!("--audit-log-path={}", self.audit_log().display()),
        ];
        // There it was alpha and off: the second pod CIDR of a node would be dropped in silence. Newer
        // versions do not know the switch any more.
        if self.control.exec([&arguments[0], "--version"])?.contains(" v1.20.") {
            arguments.push("--feature-gates=IPv6DualStack=true".into());
        }
        let kube_apiserver = self.spawn_logged("kube-apiserver", arguments)?;
        let mut running = Running::Real { kube_apiserver, etcd };
        self.wait_ready(&mut running)?;
        Ok(running)
    }

    fn spawn_logged(&self, name: &str, argv: Vec<String>) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.directory.join(format!("{name}.log")))?;
        let mut command = self.control.command(argv);
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        space::spawn(command).with_context(|| format!("start {name}"))
    }

    fn wait_ready(&self, running: &mut Running) -> Result<()> {
        let Running::Real { kube_apiserver, etcd } = running else { return Ok(()) };
        let url = format!("https://{}:{}/readyz", self.realm.control(), port(&self.kind));
        let ca = self.directory.join("ca.crt").display().to_string();
        let deadline = Instant::now() + READY_LIMIT * patience();
        loop {
            let header = format!("Authorization: Bearer {TOKEN}");
            let curl = ["curl", "-s", "-m", "2", "-H", &header, "--cacert", &ca, &url];
            if self.control.output(curl)?.stdout == b"ok" {
                return Ok(());
            }
            let ended = kube_apiserver.try_wait()?.is_some() || etcd.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.directory.join("kube-apiserver.log")).unwrap_or_default();
                let _ = (kube_apiserver.kill(), etcd.kill());
                bail!("kube-apiserver did not get ready; its log ends:\n{}", crate::tail(&log, 20));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn port(kind: &Kind) -> u16 {
    match kind {
        Kind::Embedded(_) => 8080,
        Kind::Real { .. } => 6443,
    }
}

/// Connects to an address as seen from `space`.
async fn dial(space: Arc<Space>, target: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    const LIMIT: Duration = Duration::from_secs(5);
    let connect = move || space.run(|| TcpStream::connect_timeout(&target, LIMIT * patience()));
    let stream = tokio::task::spawn_blocking(connect).await?.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

fn dial_from(space: &Arc<Space>) -> apiserver::Dial {
    let space = space.clone();
    Arc::new(move |target| Box::pin(dial(space.clone(), target)))
}

/// Forwards every connection to `target` as seen from `space`, until the runtime ends.
async fn forward(listener: TcpListener, space: Arc<Space>, target: SocketAddr) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        let space = space.clone();
        tokio::spawn(async move {
            // A failure anywhere closes the client's connection, which is all it needs to know.
            let mut server = dial(space, target).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            anyhow::Ok(())
        });
    }
}

/// kube-apiserver and etcd: what `tests/kube-apiserver/build` finds or builds.
pub(crate) fn binaries() -> Result<(PathBuf, PathBuf)> {
    let find = |arguments: &[&str]| -> Result<PathBuf> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../kube-apiserver/build");
        let output = Command::new(script).args(arguments).output().with_context(|| format!("run {script}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let path = text.lines().next_back().filter(|_| output.status.success());
        path.map(PathBuf::from)
            .ok_or_else(|| anyhow!("no real API server: {}", crate::tail(&String::from_utf8_lossy(&output.stderr), 5)))
    };
    Ok((find(&[])?, find(&["etcd"])?))
}

/// A certificate authority, the server's certificate, the key for service accounts, the admin's token.
fn make_credentials(directory: &Path, address: Ipv4Addr) -> Result<()> {
    let groups = "system:serviceaccounts,system:serviceaccounts:kube-system";
    let tokens = format!("{TOKEN},admin,1,\"system:masters\"\n{AGENT_TOKEN},{AGENT},2,\"{groups}\"\n");
    fs::write(directory.join("tokens.csv"), tokens)?;
    let rules = format!("- level: Metadata\n  users: [\"{AGENT}\"]\n- level: None\n");
    fs::write(
        directory.join("audit-policy.yaml"),
        format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n{rules}"),
    )?;
    fs::write(
        directory.join("server.ext"),
        format!("extendedKeyUsage=serverAuth\nsubjectAltName=IP:{address},IP:127.0.0.1,DNS:localhost\n"),
    )?;
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt -days 30 \
         -subj /CN=lab-ca -addext keyUsage=critical,keyCertSign,cRLSign",
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr \
         -subj /CN=kube-apiserver",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile server.ext \
         -out server.crt",
        "ecparam -name prime256v1 -genkey -noout -out service-account.key",
    ] {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(directory);
        sys::prepare_child(&mut command, Vec::new());
        space::succeed(command, "")?;
    }
    Ok(())
}
