//! Each failure is one line that names the object and says what to do, with exit code 1.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::Stdio,
};

use serde_json::json;

use crate::cluster::{Cluster, KEY, home_for, run, text};

/// Where an API server would be: nothing listens at port 1.
const GONE: &str = "http://127.0.0.1:1";

/// Runs kgctl as a user of `url`; it must fail with one line, which is returned without its beginning.
#[track_caller]
fn complaint(url: &str, arguments: &[&str]) -> String {
    one_line(&run(&home_for(url), arguments))
}

#[track_caller]
fn one_line(output: &std::process::Output) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let line = said.strip_prefix("kgctl: ").and_then(|line| line.strip_suffix('\n'));
    let line = line.filter(|line| !line.contains('\n'));
    line.unwrap_or_else(|| panic!("not one line: {said}")).to_owned()
}

/// A server that answers every request with this status and, if any, this message.
fn answering(status: u16, message: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    // Ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            _ = stream.read(&mut [0; 4096]);
            let body = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": "", "code": status,
            });
            let body = body.to_string();
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close");
            _ = write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        }
    });
    address
}

#[test]
fn a_kubeconfig_that_is_missing_or_names_no_cluster() {
    let home = home_for(GONE);
    let file = home.path().join(".kube/config");
    let file = file.display();
    for (arguments, expected) in [
        (
            ["graph", "--kubeconfig=/nonexistent"],
            "kubeconfig /nonexistent: No such file or directory (os error 2)".to_owned(),
        ),
        (
            ["graph", "--context=nowhere"],
            format!("kubeconfig {file}: it has no context \"nowhere\"; pass --context with one of: lab"),
        ),
    ] {
        assert_eq!(one_line(&run(&home, &arguments)), expected);
    }
    let output = run(&home, &["graph", "--kubeconfig="]);
    assert!(
        one_line(&output).starts_with("no service account, which an empty --kubeconfig stands for: "),
        "{output:?}"
    );
    let nobody = tempfile::tempdir().expect("a directory");
    let expected = format!(
        "no kubeconfig: $KUBECONFIG is not set and {}/.kube/config does not exist; pass --kubeconfig FILE or set \
         KUBECONFIG",
        nobody.path().display()
    );
    assert_eq!(one_line(&run(&nobody, &["graph"])), expected);
}

#[test]
fn an_api_server_that_is_not_there_or_refuses() {
    assert_eq!(
        complaint(GONE, &["graph"]),
        format!(
            "cannot list nodes: {GONE} does not answer: Connection refused (os error 111); check that it runs and that \
             it is the one you mean"
        )
    );
    let stranger = format!("http://{}", answering(401, "Unauthorized"));
    assert_eq!(
        complaint(&stranger, &["graph"]),
        format!(
            "cannot list nodes: {stranger} does not accept the credentials: Unauthorized (HTTP status 401); log in \
             anew, or check the context's user"
        )
    );
    let right = "nodes is forbidden: User \"x\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    let weak = format!("http://{}", answering(403, right));
    assert_eq!(
        complaint(&weak, &["showconf", "peer", "a"]),
        format!("cannot list nodes: {right} (HTTP status 403); ask an administrator for this right")
    );
}

#[test]
fn names_that_the_mesh_does_not_have() {
    let cluster = Cluster::example();
    cluster.node("rome-1", "rome", 7, &json!({"kilo.squat.ai/key": "", "kilo.squat.ai/last-seen": ""}));
    cluster.peer("broken", &json!({"allowedIPs": ["10.5.0.2"], "publicKey": KEY}));
    let said = |arguments: &[&str]| {
        let output = cluster.kgctl(&[["showconf"].as_slice(), arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        text(&output.stderr).lines().last().unwrap_or_default().to_owned()
    };
    for (arguments, expected) in [
        (
            ["node", "pariss-1"],
            "kgctl: did not find any node named \"pariss-1\" in the cluster; did you mean \"paris-1\" or \"paris-2\"?",
        ),
        (
            ["node", "rome-1"],
            "kgctl: node/rome-1 is not part of the mesh: it has no kilo.squat.ai/key, has never checked in",
        ),
        (["peer", "Laptop"], "kgctl: did not find any peer named \"Laptop\" in the cluster; did you mean \"laptop\"?"),
        (
            ["peer", "broken"],
            "kgctl: peer/broken: spec: the peer is left out: spec.allowedIPs: \"10.5.0.2\" is no CIDR",
        ),
    ] {
        assert_eq!(said(&arguments), expected);
    }
}

#[test]
fn without_the_definition_there_is_a_mesh_without_peers() {
    let cluster = Cluster::empty();
    cluster.node("rome-1", "rome", 1, &json!({}));
    let output = cluster.kgctl(&["graph"]);
    assert!(output.status.success() && text(&output.stdout).contains("\"rome-1\""), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.starts_with("kgctl: warning: customresourcedefinition/peers.kilo.squat.ai: "), "{said}");
    let output = cluster.kgctl(&["showconf", "peer", "laptop"]);
    let last = "kgctl: did not find any peer named \"laptop\" in the cluster, which has none";
    assert_eq!(text(&output.stderr).lines().last(), Some(last));
}

#[test]
fn verbose_tells_every_cause_on_its_own_line() {
    let output = run(&home_for(GONE), &["graph", "-v"]);
    let said = text(&output.stderr);
    assert!(said.starts_with("kgctl: cannot list nodes: "), "{said}");
    assert!(said.lines().skip(1).all(|line| line.starts_with("  because: ")), "{said}");
    assert!(said.ends_with("  because: Connection refused (os error 111)\n"), "{said}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let cluster = Cluster::example();
    let mut kgctl = cluster.command(env!("CARGO_BIN_EXE_kgctl"));
    let kgctl = kgctl.arg("graph").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut kgctl = kgctl.expect("kgctl runs");
    drop(kgctl.stdout.take());
    let output = kgctl.wait_with_output().expect("kgctl ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_credential_plugin_that_fails_is_quoted_without_what_it_printed() {
    let home = home_for(GONE);
    let file = home.path().join(".kube/config");
    let config = std::fs::read_to_string(&file).expect("a kubeconfig");
    for (script, expected) in [
        ("echo hunter2; echo log in first >&2; exit 3", "failed with exit status: 3: log in first"),
        ("echo hunter2", "printed no ExecCredential object"),
    ] {
        let plugin = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "interactiveMode": "Never",
        });
        let config = config.replace("user: {}", &format!("user: {{exec: {plugin}}}"));
        std::fs::write(&file, config).expect("a file");
        let output = run(&home, &["graph", "--verbose"]);
        let expected = format!(
            "cannot use the credentials for the API server {GONE}: the credential plugin {expected}; check \
             the context's user"
        );
        assert_eq!(one_line(&output), expected);
    }
}
