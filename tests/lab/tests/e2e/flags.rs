//! What this version does not do is refused by name, before anything is touched.

use std::process::Command;

use anyhow::{Result, ensure};

/// Flags, and what the refusal has to name.
const REFUSED: [(&[&str], &str); 6] = [
    (&["--encapsulate=sometimes"], "--encapsulate"),
    (&["--encapsulate=never", "--compatibility=docker"], "--compatibility"),
    (&["--encapsulate=never", "--create-interface=false", "--wireguard=userspace"], "--create-interface"),
    (&["--encapsulate=never", "--backend=etcd"], "--backend"),
    (&["webhook", "--cert-file=/nonexistent/a", "--key-file=b"], "--cert-file /nonexistent/a"),
    (&["--encapsulate=never", "--no-such-flag"], "--no-such-flag"),
];

#[test]
fn flags_of_later_versions_are_refused_by_name() -> Result<()> {
    let kg = lab::program("kg")?;
    for (flags, name) in REFUSED {
        let mut command = Command::new("timeout");
        command.arg("20").arg(&kg);
        // Should one be accepted after all, the agent finds no cluster, and so touches nothing.
        let output = match flags {
            ["webhook", ..] => command.args(flags),
            _ => command.args(["--kubeconfig=/nonexistent", "--hostname=nobody"]).args(flags),
        }
        .output()?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && message.contains(name), "{flags:?}: {}\n{message}", output.status);
    }
    Ok(())
}
