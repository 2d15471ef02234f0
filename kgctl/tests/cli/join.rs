//! `kgctl cluster`: what it does when not all can be done, and what it says of what it cannot do.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;
use tempfile::TempDir;

use crate::cluster::{Cluster, home_for, text};

/// A request or an answer of which the end is known: a head, and as much body as it says.
fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head = message.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = head {
            let head = String::from_utf8_lossy(&message[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if message.len() >= end + 4 + length.unwrap_or_default() {
                return message;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return message,
            Ok(length) => message.extend_from_slice(&buffer[..length]),
        }
    }
}

/// A way to an API server on which, while `is_forbidden`, nobody may create Peers. One request for each
/// connection, so that each is looked at.
fn guard(server: SocketAddr, is_forbidden: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let serve = move |mut client: TcpStream| {
        let request = read_message(&mut client);
        if request.starts_with(b"POST /apis/kilo.squat.ai/") && is_forbidden.load(Ordering::Relaxed) {
            let body = r#"{"kind":"Status","code":403,"reason":"Forbidden","message":"no Peers from you"}"#;
            let head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close";
            _ = write!(client, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            return;
        }
        let request = String::from_utf8_lossy(&request).replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let mut upstream = TcpStream::connect(server).expect("the server listens");
        upstream.write_all(request.as_bytes()).expect("the server reads");
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).expect("the server answers");
        _ = client.write_all(&answer);
    };
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(client));
        }
    });
    address
}

/// Clusters `a` and `b`, of which the second is reached through a guard.
struct Two {
    a: Cluster,
    b: Cluster,
    guarded: TempDir,
    is_forbidden: Arc<AtomicBool>,
}

impl Two {
    fn new() -> Self {
        let a = Cluster::example();
        let b = Cluster::defined();
        b.node("rome-1", "rome", 11, &json!({"kilo.squat.ai/wireguard-ip": "10.6.0.1/16"}));
        let is_forbidden = Arc::new(AtomicBool::new(false));
        let guarded = home_for(&format!("http://{}", guard(b.address(), is_forbidden.clone())));
        Self { a, b, guarded, is_forbidden }
    }

    fn kgctl(&self, command: &str, more: &[&str]) -> Output {
        let guarded = self.guarded.path().join(".kube/config");
        let kubeconfigs = [self.a.kubeconfig(), guarded].map(|path| format!("--kubeconfig={}", path.display()));
        let mut arguments = vec!["cluster", command, &kubeconfigs[0], &kubeconfigs[1]];
        if command != "leave" {
            arguments.extend(["--name=a", "--name=b", "--service-cidr=a=10.96.0.0/16", "--service-cidr=b=none"]);
        }
        self.a.kgctl(&[&arguments, more].concat())
    }
}

#[track_caller]
fn ended(output: &Output, code: i32, stdout: &str, stderr: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(text(&output.stdout), stdout);
    assert!(text(&output.stderr).contains(stderr), "{output:?}");
}

#[test]
fn what_one_cluster_forbids_costs_only_that_and_the_next_run_makes_up_for_it() {
    let two = Two::new();
    two.is_forbidden.store(true, Ordering::Relaxed);
    let output = two.kgctl("join", &[]);
    ended(
        &output,
        1,
        "cluster a: peer/b.location.rome created\n",
        "cluster b: cannot create peers/a.location.oslo: no Peers from you",
    );
    ended(&output, 1, &text(&output.stdout), "cannot create peers/a.location.paris: no Peers from you");
    ended(&output, 1, &text(&output.stdout), "2 changes were not made; what was made stays, run it again");
    let list = two.kgctl("list", &[]);
    assert_eq!((list.status.code(), text(&list.stdout).matches(" missing").count()), (Some(3), 2), "{list:?}");

    two.is_forbidden.store(false, Ordering::Relaxed);
    let made = "cluster b: peer/a.location.oslo created\ncluster b: peer/a.location.paris created\n";
    let joined = "cluster a: joined to b by 1 Peer\ncluster b: joined to a by 2 Peers\n";
    ended(&two.kgctl("join", &[]), 0, &format!("{made}{joined}"), "");
    ended(&two.kgctl("join", &[]), 0, joined, "");
    assert!(two.kgctl("list", &[]).status.success());
}

#[test]
fn services_are_behind_a_segment_outside_nat() {
    let two = Two::new();
    let shown = text(&two.kgctl("join", &["--dry-run=b"]).stdout);
    assert!(!shown.contains("b.location"), "only what the one cluster gets: {shown}");
    let of_paris = shown.split("---\n").find(|document| document.contains("name: a.location.paris")).expect("paris");
    assert!(of_paris.contains("- 10.96.0.0/16\n") && shown.matches("10.96.0.0/16").count() == 1, "{shown}");
    assert!(two.b.ok(&["graph"]).matches("a.location").count() == 0, "nothing was written");
}

#[test]
fn what_was_joined_is_parted_and_what_is_not_kgctls_is_not_touched() {
    let two = Two::new();
    assert!(two.kgctl("join", &[]).status.success());
    let would = "dry run: cluster a: peer/b.location.rome deleted: the clusters are no longer joined\n";
    assert!(text(&two.kgctl("leave", &["--dry-run"]).stdout).starts_with(would));
    let left = two.kgctl("leave", &[]);
    assert_eq!((left.status.code(), text(&left.stdout).lines().count()), (Some(0), 3), "{left:?}");
    assert!(two.a.ok(&["graph"]).contains("laptop"));
    ended(&two.kgctl("leave", &[]), 0, "", "kgctl: there is nothing to remove");
}

#[test]
fn who_left_for_good_is_left_by_name() {
    let two = Two::new();
    assert!(two.kgctl("join", &[]).status.success());
    let of_a = |name: &str| two.a.kgctl(&["cluster", "leave", name]);
    ended(&of_a("--name=c"), 1, "", "no cluster called c is joined here, but b");
    let gone = "cluster a: peer/b.location.rome deleted: the clusters are no longer joined\n";
    assert!(of_a("--name=b").stdout.ends_with(gone.split_once(": ").expect("two parts").1.as_bytes()));
    let alone = two.a.kgctl(&["cluster", "leave"]);
    assert_eq!(alone.status.code(), Some(2), "{alone:?}");
}

#[test]
fn bad_command_lines_and_clusters_are_told_before_anything_is_done() {
    let two = Two::new();
    let file = format!("--kubeconfig={}", two.a.kubeconfig().display());
    let twice = ["cluster", "join", &file, &file];
    let none = ["--name=a", "--name=b", "--service-cidr=a=none", "--service-cidr=b=none"];
    ended(&two.a.kgctl(&twice), 1, "", "give each a name of its own with --name");
    ended(&two.a.kgctl(&[&twice[..], &none].concat()), 1, "", "a and b are the same cluster");
    ended(&two.a.kgctl(&twice[..3]), 2, "", "one cluster cannot be joined");
    ended(
        &two.kgctl("join", &["--service-cidr=c=none"]),
        2,
        "",
        "--service-cidr c: no cluster is called so, only a and b",
    );
    ended(&two.kgctl("join", &["--dry-run=c"]), 2, "", "--dry-run=c: no cluster is called so, only a and b");
    ended(&two.kgctl("join", &["--name=c"]), 2, "", "3 times --name for 2 clusters");
    let overlap = "service CIDR 10.42.0.0/16 of cluster b";
    ended(&two.kgctl("join", &["--service-cidr=b=10.42.0.0/16"]), 1, "", overlap);
    assert_eq!(two.b.ok(&["graph"]).matches("a.location").count(), 0);

    let nobody = Cluster::defined();
    let other = format!("--kubeconfig={}", nobody.kubeconfig().display());
    let output = two.a.kgctl(&["cluster", "join", &file, &other, none[0], none[1], none[2], none[3]]);
    ended(&output, 1, "", "no node of cluster b has checked in lately: nothing that concerns it is changed");
}
