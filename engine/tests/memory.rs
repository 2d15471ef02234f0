//! The device as a program under valgrind: no byte is read that was not written, none beyond its buffer.

mod common;

use std::path::PathBuf;

use common::*;

/// The example `device`, which is built with the tests.
fn program() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    let path = test.parent()?.parent()?.join("examples/device");
    path.exists().then_some(path)
}

#[test]
fn a_load_under_valgrind_is_clean() {
    if !can_run() {
        return;
    }
    if std::process::Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs valgrind");
        return;
    }
    let Some(program) = program() else {
        eprintln!("SKIPPED: needs the example `device`, which `cargo build --all-targets` builds");
        return;
    };
    let (a, b) = (Host::new("a"), Host::new("b"));
    wire(0, (&a, 1), (&b, 2));
    let ours = device(&a, 1, |_| ());
    ours.set_peer(peer(2, None)).unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let log_flag = format!("--log-file={}", log.path().display());
    let (interface, program) = (b.unique_interface.clone(), program.display().to_string());
    let watched = b.spawn(&["valgrind", "--leak-check=no", &log_flag, &program, &interface]);
    wait_until("the device answers", 3 * SOON, || b.try_run(&["wg", "show", &interface]).status.success());
    configure_with_wg(&b, &interface, 2, 1, &["persistent-keepalive", "1"]);
    wait_until("a handshake", 3 * SOON, || a.reaches("10.77.0.2"));
    for (from, to, address) in [(&a, &b, "10.77.0.2"), (&b, &a, "10.77.0.1"), (&a, &b, "fd77::2")] {
        transfer(from, to, address.parse().unwrap(), 4 << 20);
    }
    // Its last word: valgrind tells what it found when the program is told to end.
    watched.terminate();
    let said = || std::fs::read_to_string(log.path()).unwrap();
    wait_until("valgrind's summary", SOON, || said().contains("ERROR SUMMARY"));
    watched.finish();
    assert!(said().contains("ERROR SUMMARY: 0 errors"), "{}", said());
}
