//! `kg webhook` as the API server meets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::{Api, Lab, Spec, spawn};
use serde_json::json;

use crate::chart::repository;
use crate::support::{chosen_api, in_lab, skipped, wait};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A running webhook on the API server's host.
struct Webhook<'a> {
    lab: &'a Lab,
    directory: PathBuf,
    child: Child,
}

impl<'a> Webhook<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        let directory = lab.directory().join("webhook");
        fs::create_dir_all(&directory)?;
        make_certificate(&directory, 1)?;
        let child = Self::spawn(lab, &directory, "127.0.0.1:8443")?;
        Ok(Self { lab, directory, child })
    }

    /// As the manifest's Deployment and Service have it: with the certificate in the Secret, at the Service's address.
    fn of_manifest(lab: &'a Lab) -> Result<Self> {
        let directory = lab.directory().join("webhook");
        fs::create_dir_all(&directory)?;
        bring_secret(lab, &directory)?;
        let address = service_address(lab)?;
        lab.exec("control", &["ip", "address", "add", &address, "dev", "lo"])?;
        let child = Self::spawn(lab, &directory, &format!("{address}:443"))?;
        Ok(Self { lab, directory, child })
    }

    fn spawn(lab: &Lab, directory: &Path, listen: &str) -> Result<Child> {
        let mut command = lab.space("control")?.command([
            lab::program("kg")?.display().to_string(),
            "webhook".to_owned(),
            format!("--cert-file={}", directory.join("tls.crt").display()),
            format!("--key-file={}", directory.join("tls.key").display()),
            format!("--listen={listen}"),
            "--listen-metrics=127.0.0.1:1107".to_owned(),
        ]);
        let log = fs::File::options().create(true).append(true).open(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        spawn(command).context("start the webhook")
    }

    /// The certificate is its own authority.
    fn authority(&self) -> PathBuf {
        self.directory.join("tls.crt")
    }

    fn curl(&self, arguments: &[&str]) -> Result<String> {
        self.lab.exec("control", &[&["curl", "-sS", "-m", "20"], arguments].concat())
    }

    fn stop(&mut self) -> Result<()> {
        lab::sys::kill(self.child.id(), libc::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the webhook ended with {status}");
        Ok(())
    }
}

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        // It has ended if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address by which the API server calls the manifest's webhook.
fn service_address(lab: &Lab) -> Result<String> {
    let service = ["get", "service", "-n", "kilo", "peer-validation", "-o", "jsonpath={.spec.clusterIP}"];
    crate::manifests::kubectl(lab, &service)
}

/// What kubelets do with the Secret, each file in one step.
fn bring_secret(lab: &Lab, directory: &Path) -> Result<()> {
    for file in ["tls.key", "tls.crt"] {
        let path = directory.join(file);
        let template = format!("go-template={{{{index .data \"{file}\" | base64decode}}}}");
        let secret = ["get", "secret", "-n", "kilo", "peer-validation-webhook-tls", "-o", &template];
        fs::write(path.with_extension("new"), crate::manifests::kubectl(lab, &secret)?)?;
        fs::rename(path.with_extension("new"), path)?;
    }
    Ok(())
}

/// Puts a new certificate where the old one is, each file in one step.
fn make_certificate(directory: &Path, number: u8) -> Result<()> {
    let status = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '))
        .args(["-keyout", "new.key", "-out", "new.crt", "-subj", &format!("/CN=webhook-{number}")])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .current_dir(directory)
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "openssl: {status}");
    fs::rename(directory.join("new.key"), directory.join("tls.key"))?;
    fs::rename(directory.join("new.crt"), directory.join("tls.crt"))?;
    Ok(())
}

fn kubectl(lab: &Lab, arguments: &[&str], input: &str) -> Result<std::process::Output> {
    let kubeconfig = format!("--kubeconfig={}", lab.kubeconfig_on_hosts().display());
    let path = lab.directory().join("input");
    fs::write(&path, input)?;
    // Not exec_with_input: kubectl's warnings are wanted, too.
    let script = format!("exec \"$@\" < {}", path.display());
    lab.space("control")?.output([&["sh", "-c", &script, "sh", "kubectl", &kubeconfig], arguments].concat())
}

/// The webhook's configuration of the manifest, but at an address: there is nobody here who routes services.
fn configure(lab: &Lab, authority: &Path) -> Result<()> {
    let text = fs::read_to_string(repository("manifests/peer-validation.yaml"))?;
    let objects = crate::chart::objects(&text)?;
    let is_wanted = |object: &&serde_json::Value| object["kind"] == "ValidatingWebhookConfiguration";
    let mut object = objects.iter().find(is_wanted).context("no configuration in the manifest")?.clone();
    let bundle = Command::new("base64").arg("-w0").arg(authority).output()?.stdout;
    object["webhooks"][0]["clientConfig"] =
        json!({ "url": "https://127.0.0.1:8443/validate", "caBundle": String::from_utf8(bundle)? });
    let output = kubectl(lab, &["apply", "-f", "-"], &object.to_string())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What kubectl says of a Peer; an error is the API server's refusal.
fn apply(lab: &Lab, name: &str, spec: &serde_json::Value) -> Result<String> {
    let peer =
        json!({ "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": name }, "spec": spec });
    let output = kubectl(lab, &["apply", "-f", "-"], &peer.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

fn refused(lab: &Lab, name: &str, spec: &serde_json::Value, words: &[&str]) -> Result<()> {
    let error = match apply(lab, name, spec) {
        Ok(_) => anyhow::bail!("{spec} was taken"),
        Err(error) => error.to_string(),
    };
    ensure!(words.iter().all(|word| error.contains(word)), "{spec}: {error}");
    Ok(())
}

#[test]
fn invalid_peers_are_refused_and_certificates_renewed() -> Result<()> {
    if chosen_api()? == Api::Embedded {
        return skipped(&anyhow::anyhow!("the embedded API server calls no webhooks"));
    }
    in_lab(
        "webhook",
        |spec: Spec| spec,
        |lab| {
            let mut webhook = Webhook::start(lab)?;
            wait(lab, "the webhook is up", || webhook.curl(&["http://127.0.0.1:1107/health"]).map(|_| true))?;
            configure(lab, &webhook.authority())?;
            let good = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY });
            let with = |field: &str, value: serde_json::Value| {
                let mut spec = good.clone();
                spec[field] = value;
                spec
            };
            let bad_ip = with("allowedIPs", json!(["10.5.0.1"]));
            let denied = "denied the request: ";
            wait(lab, "the API server asks the webhook", || {
                let error = apply(lab, "probe", &bad_ip).err().context("an invalid Peer was taken")?.to_string();
                ensure!(error.contains(denied), "{error}");
                Ok(true)
            })?;

            for (spec, field) in [
                (bad_ip.clone(), "spec.allowedIPs: \"10.5.0.1\" is no CIDR"),
                (with("publicKey", json!("x")), "spec.publicKey"),
                (with("presharedKey", json!("x")), "spec.presharedKey"),
                (with("persistentKeepalive", json!(-1)), "spec.persistentKeepalive"),
                (with("endpoint", json!({ "dnsOrIP": { "ip": "gw" }, "port": 1 })), "spec.endpoint"),
                (with("endpoint", json!({ "dnsOrIP": { "ip": "192.0.2.1" }, "port": 0 })), "spec.endpoint"),
            ] {
                refused(lab, "laptop", &spec, &[denied, field])?;
            }
            apply(lab, "laptop", &good)?;
            refused(lab, "laptop", &bad_ip, &[denied, "spec.allowedIPs"])?;
            let warned = apply(lab, "empty", &with("allowedIPs", json!([])))?;
            ensure!(warned.contains("Warning: the agents ignore this Peer"), "{warned:?}");

            // The API server keeps its connection; one with the new authority has to be made.
            make_certificate(&webhook.directory, 2)?;
            configure(lab, &webhook.authority())?;
            wait(lab, "the new certificate is in use", || {
                let error = apply(lab, "laptop", &bad_ip).err().context("an invalid Peer was taken")?.to_string();
                ensure!(error.contains(denied), "{error}");
                let new = webhook.authority().display().to_string();
                webhook.curl(&["--cacert", &new, "https://127.0.0.1:8443/validate"]).map(|_| true)
            })?;
            let metrics = webhook.curl(&["http://127.0.0.1:1107/metrics"])?;
            for counter in [
                "admission_requests_total{operation=\"CREATE\",response=\"allowed\"} 2",
                "admission_requests_total{operation=\"UPDATE\",response=\"denied\"}",
                "http_requests_total{handler=\"/validate\",method=\"POST\"}",
                "errors_total",
            ] {
                ensure!(metrics.contains(counter), "no {counter} in\n{metrics}");
            }

            webhook.stop()?;
            refused(lab, "later", &good, &["failed calling webhook", "peers.kilo.squat.ai"])?;
            let ignore = r#"[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]"#;
            let patch = ["patch", "validatingwebhookconfiguration", "peers.kilo.squat.ai", "--type=json", "-p", ignore];
            let output = kubectl(lab, &patch, "")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            wait(lab, "peers are taken without the webhook", || apply(lab, "later", &good).map(|_| true))
        },
    )
}

/// The script for clusters without cert-manager: Peers are judged from the first certificate on, and while each node has
/// the old one or the new one.
#[test]
fn peers_are_judged_while_the_certificate_is_renewed() -> Result<()> {
    let Some(()) = crate::manifests::real_only()? else { return Ok(()) };
    in_lab(
        "renewal",
        |spec: Spec| spec,
        |lab| {
            let manifest = repository("manifests/peer-validation.yaml").display().to_string();
            crate::manifests::kubectl(lab, &["apply", "-f", &manifest])?;
            let script = repository("scripts/peer-validation-certificate").display().to_string();
            let kubeconfig = format!("KUBECONFIG={}", lab.kubeconfig_on_hosts().display());
            let renew = || lab.exec("control", &["env", &kubeconfig, &script, "3"]).map(drop);
            let good = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY });
            let bad = json!({ "allowedIPs": ["10.5.0.1"], "publicKey": KEY });
            let is_judged = || {
                wait(lab, "Peers are judged", || {
                    let error = apply(lab, "bad", &bad).err().context("an invalid Peer was taken")?.to_string();
                    ensure!(error.contains("denied the request: "), "{error}");
                    apply(lab, "good", &good).map(|_| true)
                })
            };
            renew()?;
            let webhook = Webhook::of_manifest(lab)?;
            is_judged()?;
            // Twice, as somebody does who is not sure: the pods have the first certificate still.
            renew()?;
            is_judged()?;
            renew()?;
            is_judged()?;
            bring_secret(lab, &webhook.directory)?;
            let served = || -> Result<bool> {
                let connect = format!("openssl s_client -connect {}:443 </dev/null 2>/dev/null", service_address(lab)?);
                let script = format!("{connect} | openssl x509 -noout -serial");
                let file = webhook.directory.join("tls.crt").display().to_string();
                let own = lab.exec("control", &["openssl", "x509", "-noout", "-serial", "-in", &file])?;
                Ok(lab.exec("control", &["sh", "-c", &script])? == own)
            };
            wait(lab, "the new certificate is served", served)?;
            is_judged()
        },
    )
}
