//! The embedded server, run as a program, under the real `kubectl`, with its validation left on.
//! Skipped, and says so, where there is no `kubectl` on PATH. Any since 1.20 will do; what older ones lack they are
//! not asked for, or another way.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.example.com}
spec:
  group: test.example.com
  scope: Cluster
  names: {plural: widgets, kind: Widget, shortNames: [wg]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            description: What is wished for.
            type: object
            required: [size]
            properties: {size: {type: integer, description: In inches.}}
"#;
/// JSON, as older kubectl takes all that begins with a brace for it.
const WIDGET: &str =
    r#"{"apiVersion": "test.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": SIZE}}"#;
/// The first minor version of kubectl 1 that has `--subresource`.
const HAS_SUBRESOURCE: u32 = 24;
/// The first one that reads OpenAPI v3, which is where the server says that it can validate, try out and explain.
const READS_OPENAPI_V3: u32 = 27;
const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: one, labels: {zone: a}}
spec: {podCIDR: 10.4.0.0/24, taints: [{key: TAINT, effect: NoSchedule}]}
"#;

/// The program under test and a place for kubectl's files; both go when this is dropped.
struct Cluster {
    server: Child,
    url: String,
    files: TempDir,
    /// The minor version of kubectl.
    minor: u32,
}

impl Cluster {
    /// `None` if there is no kubectl.
    fn start() -> Option<Cluster> {
        let Ok(version) = Command::new("kubectl").args(["version", "--client", "--output=json"]).output() else {
            println!("skipped: kubectl is not on PATH");
            return None;
        };
        let minor = minor_version(&version.stdout).unwrap_or_else(|| panic!("kubectl version: {version:?}"));
        let mut server = Command::new(env!("CARGO_BIN_EXE_apiserver"))
            .args(["--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(server.stderr.take().expect("piped")).read_line(&mut line).expect("it says where it is");
        let url = line.trim().strip_prefix("serving ").expect("an address").to_owned();
        let files = tempfile::tempdir().expect("a directory");
        std::fs::write(files.path().join("kubeconfig"), apiserver::kubeconfig(&url)).expect("a kubeconfig");
        Some(Cluster { server, url, files, minor })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments).env("KUBECONFIG", self.files.path().join("kubeconfig")).env("HOME", self.files.path());
        command
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.files.path().join(name);
        std::fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
        path.to_string_lossy().into_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("kubectl runs")
    }

    /// What kubectl prints; it must succeed.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?} to {}: {out}{err}", self.url);
        out.into_owned()
    }

    /// What kubectl complains about; it must fail.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Only fails if the server is gone already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The minor version in what `kubectl version --output=json` prints; distributors may append to it, as in `20+`.
fn minor_version(printed: &[u8]) -> Option<u32> {
    let printed: serde_json::Value = serde_json::from_slice(printed).ok()?;
    printed["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}

/// The words of the first lines, as columns have changing widths.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn nodes_can_be_managed() {
    let Some(cluster) = Cluster::start() else { return };
    let file = cluster.file("node.yaml", &NODE.replace("TAINT", "one"));
    assert_eq!(cluster.ok(&["apply", "-f", &file]), "node/one created\n");
    assert_eq!(cluster.ok(&["apply", "-f", &file]), "node/one unchanged\n");
    let file = cluster.file("node.yaml", &NODE.replace("TAINT", "two"));
    assert_eq!(cluster.ok(&["apply", "-f", &file]), "node/one configured\n");
    assert_eq!(cluster.ok(&["get", "node", "one", "-o", "jsonpath={.spec.taints[*].key}"]), "two");

    cluster.ok(&["label", "node", "one", "zone=b", "--overwrite"]);
    cluster.ok(&["annotate", "node", "one", "test.example.com/x=y"]);
    cluster.ok(&["annotate", "node", "one", "test.example.com/x-"]);
    cluster.ok(&["cordon", "one"]);
    cluster.ok(&["taint", "node", "one", "three=3:NoSchedule"]);
    let status = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                     "conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.2.3"}}}"#;
    if cluster.minor >= HAS_SUBRESOURCE {
        cluster.ok(&["patch", "node", "one", "--subresource=status", "--type=merge", "-p", status]);
    } else {
        let node = cluster.ok(&["get", "node", "one", "-o", "json"]);
        let mut node: serde_json::Value = serde_json::from_str(&node).expect("JSON");
        node["status"] = serde_json::from_str::<serde_json::Value>(status).expect("JSON")["status"].take();
        let file = cluster.file("status.json", &node.to_string());
        cluster.ok(&["replace", "--raw", "/api/v1/nodes/one/status", "-f", &file]);
    }
    let wide = cluster.ok(&["get", "nodes", "-l", "zone=b", "-o", "wide"]);
    let wide = words(&wide);
    assert_eq!(wide[0][..6], ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP"]);
    assert_eq!(wide[1][..3], ["one", "Ready,SchedulingDisabled", "<none>"]);
    assert_eq!(wide[1][4..6], ["v1.2.3", "192.0.2.1"]);

    let described = cluster.ok(&["describe", "node", "one"]);
    for text in ["PodCIDR:                      10.4.0.0/24", "InternalIP:  192.0.2.1", "three=3:NoSchedule"] {
        assert!(described.contains(text), "{text} in {described}");
    }
    assert!(cluster.ok(&["get", "node", "one", "-o", "yaml"]).contains("podCIDR: 10.4.0.0/24"));
    assert_eq!(cluster.ok(&["delete", "node", "one"]).trim(), "node \"one\" deleted");
    assert!(cluster.refused(&["get", "node", "one"]).contains("NotFound"));
}

#[test]
fn custom_resources_can_be_managed() {
    let Some(cluster) = Cluster::start() else { return };
    let definition = cluster.file("definition.yaml", DEFINITION);
    cluster.ok(&["create", "-f", &definition]);
    cluster.ok(&["wait", "--for=condition=Established", "crd/widgets.test.example.com", "--timeout=30s"]);
    assert!(cluster.ok(&["api-resources"]).contains("test.example.com/v1"));
    let widget = cluster.file("widget.yaml", &WIDGET.replace("SIZE", "1"));
    assert_eq!(cluster.ok(&["apply", "-f", &widget]), "widget.test.example.com/w created\n");
    let widget = cluster.file("widget.yaml", &WIDGET.replace("SIZE", "2"));
    if cluster.minor >= READS_OPENAPI_V3 {
        let changed = cluster.run(&["diff", "-f", &widget]);
        assert_eq!(changed.status.code(), Some(1), "there is a difference");
    }
    assert_eq!(cluster.ok(&["apply", "-f", &widget]), "widget.test.example.com/w configured\n");
    assert_eq!(
        cluster.ok(&["apply", "--server-side", "--force-conflicts", "-f", &widget]).trim(),
        "widget.test.example.com/w serverside-applied"
    );
    assert_eq!(words(&cluster.ok(&["get", "wg"])), [["NAME", "SIZE"], ["w", "2"]]);
    cluster.ok(&["patch", "wg", "w", "--type=merge", "-p", r#"{"spec": {"size": 3}}"#]);
    cluster.ok(&["patch", "wg", "w", "--type=json", "-p", r#"[{"op": "replace", "path": "/spec/size", "value": 4}]"#]);
    assert_eq!(cluster.ok(&["get", "wg", "w", "-o", "jsonpath={.spec.size} {.metadata.generation}"]), "4 4");
    if cluster.minor >= READS_OPENAPI_V3 {
        assert!(cluster.ok(&["explain", "widget.spec"]).contains("In inches."));
    }

    let wrong = cluster.file("wrong.yaml", &WIDGET.replace("SIZE", r#""two""#));
    assert!(cluster.refused(&["apply", "-f", &wrong]).contains("spec.size: Invalid value"));
    let unknown = cluster.file("unknown.yaml", &WIDGET.replace("SIZE", r#"1, "frob": 1"#));
    if cluster.minor >= READS_OPENAPI_V3 {
        assert!(cluster.refused(&["apply", "-f", &unknown]).contains("unknown field \"spec.frob\""));
    } else {
        cluster.ok(&["apply", "-f", &unknown]);
        assert_eq!(cluster.ok(&["get", "wg", "w", "-o", "jsonpath={.spec}"]), r#"{"size":1}"#);
    }
    cluster.ok(&["delete", "-f", &widget]);
    cluster.ok(&["delete", "-f", &definition]);
}

#[test]
fn changes_can_be_watched() {
    let Some(cluster) = Cluster::start() else { return };
    let file = cluster.file("node.yaml", &NODE.replace("TAINT", "one"));
    cluster.ok(&["create", "-f", &file]);
    let arguments = ["get", "nodes", "-w", "--output-watch-events"];
    let mut watch = cluster.command(&arguments).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped"));
    assert_eq!(next_words(&mut lines)[..2], ["EVENT", "NAME"]);
    assert_eq!(next_words(&mut lines)[..2], ["ADDED", "one"]);
    cluster.ok(&["cordon", "one"]);
    assert_eq!(next_words(&mut lines)[..3], ["MODIFIED", "one", "Unknown,SchedulingDisabled"]);
    cluster.ok(&["delete", "node", "one"]);
    assert_eq!(next_words(&mut lines)[..2], ["DELETED", "one"]);
    watch.kill().expect("kubectl still watches");
    watch.wait().expect("kubectl ended");
}

/// The words of the next line that is printed.
fn next_words(lines: &mut BufReader<ChildStdout>) -> Vec<String> {
    let mut line = String::new();
    lines.read_line(&mut line).expect("kubectl prints text");
    line.split_whitespace().map(str::to_owned).collect()
}
