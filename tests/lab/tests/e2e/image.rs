//! The image's files are all that the agent needs: agents run with nothing else to see, and nothing to write to but
//! what the DaemonSet mounts. No container engine is needed: mount(8), unshare(1) and chroot(1) do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, RIGHTS, Spec};
use serde_json::{Value, json};

use crate::chart::repository;
use crate::support::{DEADLINE, PACE, in_lab};

/// What may be in the image beside `kg`, in bytes: the tests' own is not optimized, and image/size measures the whole.
const LIMIT_WITHOUT_KG: u64 = 17_000_000;

/// Where the hosts drop what they forward, unless the agents accept it.
const FORWARDS: [&str; 2] = ["iptables-nft", "iptables-legacy"];

/// Makes `$1` the root, read-only but for what is mounted there, and runs the rest of the arguments in it. Mounted are
/// what container runtimes give every container, what the DaemonSet asks for, and `$2`, the lab's kubeconfigs.
const ENTER: &str = r#"
set -eu
root=$1
kubeconfigs=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
for directory in /dev/net /etc/cni/net.d /sys /var/lib/kilo "$kubeconfigs"; do
    mount --rbind "$directory" "$root$directory"
done
for file in /etc/hosts /etc/resolv.conf /run/xtables.lock; do
    mount --bind "$file" "$root$file"
done
mount --bind /run/wireguard "$root/var/run/wireguard"
exec "$@"
"#;

/// Puts the image's files with this `kg` into a directory; gives their size in bytes.
fn rootfs(kg: &Path, root: &Path) -> Result<u64> {
    let output = Command::new(repository("image/rootfs")).args([kg, root]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Builds the image's files and what a container runtime adds to be mounted on; gives their directory.
fn build(lab: &Lab) -> Result<PathBuf> {
    let root = lab.directory().join("image");
    let bytes = rootfs(&lab::program("kg")?, &root)?;
    let rest = bytes - fs::metadata(root.join("opt/bin/kg"))?.len();
    ensure!(rest <= LIMIT_WITHOUT_KG, "{rest} bytes beside kg");
    for file in ["etc/hosts", "etc/resolv.conf", "run/xtables.lock"] {
        fs::write(root.join(file), "")?;
    }
    fs::create_dir_all(root.join(kubeconfigs(lab)?.strip_prefix("/")?))?;
    // The DaemonSet's mount makes it where it is not there (`FileOrCreate`); another user of iptables may have.
    File::options().append(true).create(true).open("/run/xtables.lock")?;
    Ok(root)
}

/// The directory of the lab's kubeconfigs.
fn kubeconfigs(lab: &Lab) -> Result<PathBuf> {
    Ok(lab.kubeconfig().parent().context("the directory of the kubeconfig")?.to_owned())
}

/// The command that runs `kg` in `root`, with the rights of the DaemonSet and that of chroot(2), which a container
/// runtime needs as well before it gives it away.
fn in_image(root: &Path, kubeconfigs: &Path) -> Vec<String> {
    let script = format!("{} chroot {} /opt/bin/kg \"$@\"", rights(), root.display());
    let script = ENTER.replace("exec \"$@\"", &format!("exec {script}"));
    let argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", &script, "sh"].map(str::to_owned);
    argv.into_iter().chain([root, kubeconfigs].map(|path| path.display().to_string())).collect()
}

fn rights() -> String {
    RIGHTS.map(|word| word.replace("+net_raw", "+net_raw,+sys_chroot")).join(" ")
}

#[test]
fn agents_run_in_the_image() -> Result<()> {
    let shape = |spec: Spec| {
        spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
    };
    in_lab("image", shape, |lab| {
        let root = build(lab)?;
        let command = in_image(&root, &kubeconfigs(lab)?);
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        for node in lab.nodes() {
            for iptables in FORWARDS {
                lab.exec(&node, &[iptables, "-w", "-P", "FORWARD", "DROP"])?;
            }
            lab.start_agent_as(&node, &command, &[&PACE[..], &["--iptables-forward-rules"]].concat())?;
        }
        lab.add_pods(1)?;
        lab.wait_mesh(DEADLINE)?;
        let rules = lab.exec("paris-1", &["nft", "list", "ruleset"])?;
        ensure!(rules.contains("table inet kilo"), "{rules}");
        ensure!(!lab.agent_log("paris-1")?.contains("\"ERROR\""), "{}", lab.agent_log("paris-1")?);
        for iptables in FORWARDS {
            let chains = lab.exec("paris-1", &[iptables, "-w", "-S"])?;
            ensure!(chains.contains("-P FORWARD DROP") && chains.contains("-A KILO-FORWARD "), "{iptables}: {chains}");
        }
        lab.stop_agent("paris-1")?;
        iptables_is_found(lab, &root)?;
        plugins_are_installed(lab, &root)
    })
}

fn iptables_is_found(lab: &Lab, root: &Path) -> Result<()> {
    for program in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        let root = root.display().to_string();
        let version = lab.exec("rome-1", &["chroot", &root, &format!("/usr/sbin/{program}"), "-V"])?;
        ensure!(version.contains("v1."), "{program}: {version}");
    }
    let chroot = ["chroot", &root.display().to_string()].map(str::to_owned);
    let comment = ["/usr/sbin/iptables-nft", "-A", "OUTPUT", "-m", "comment", "--comment", "x", "-j", "ACCEPT"];
    let argv: Vec<_> = chroot.iter().map(String::as_str).chain(comment).collect();
    lab.exec("rome-1", &argv).map(drop)
}

/// The init container's part: plugins and network configuration on the host.
fn plugins_are_installed(lab: &Lab, root: &Path) -> Result<()> {
    let configuration = root.join("etc/kilo/cni-conf.json");
    let list = r#"{"name":"kilo","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#;
    fs::write(&configuration, list)?;
    let arguments = ["--to=/host/opt/cni/bin", "--configuration=/etc/kilo/cni-conf.json"];
    let target = "--cni-path=/host/etc/cni/net.d/10-kilo.conflist";
    let chroot = root.display().to_string();
    let argv = [&["chroot", &chroot, "/opt/bin/kg", "install-cni", target], &arguments[..]].concat();
    lab.exec("rome-1", &argv)?;
    // As Istio's installer does, before the pod is restarted.
    let installed = root.join("host/etc/cni/net.d/10-kilo.conflist");
    let mut with_istio: Value = serde_json::from_str(&fs::read_to_string(&installed)?)?;
    let plugins = with_istio["plugins"].as_array_mut().context("plugins")?;
    plugins.push(json!({ "type": "istio-cni", "log_level": "info" }));
    fs::write(&installed, with_istio.to_string())?;
    lab.exec("rome-1", &argv)?;
    let now: Value = serde_json::from_str(&fs::read_to_string(&installed)?)?;
    ensure!(now == with_istio, "{now:#}");
    for plugin in ["bridge", "host-local", "loopback", "portmap"] {
        // On a host that has nothing but this file: no library, no loader.
        let host = lab.directory().join(format!("host-of-{plugin}"));
        fs::create_dir(&host)?;
        fs::copy(root.join("host/opt/cni/bin").join(plugin), host.join(plugin))?;
        let (host, path) = (host.display().to_string(), format!("/{plugin}"));
        let said = lab.exec("rome-1", &["env", "CNI_COMMAND=VERSION", "chroot", &host, &path])?;
        ensure!(said.contains("supportedVersions"), "{plugin}: {said}");
    }
    Ok(())
}
