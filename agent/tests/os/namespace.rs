//! A fresh network namespace per test: a thread that leaves the others', with a runtime of its own.
//! The namespace and all that is in it ends with the thread and the sockets opened in it.

use std::{future::Future, process::Command, thread, time::Duration};

use agent::os::Netlink;
use topology::Route;

/// How long anything may take that a test waits for, times `KG_PATIENCE` where that is set.
pub fn deadline() -> Duration {
    let patience = std::env::var("KG_PATIENCE").ok().and_then(|factor| factor.parse().ok());
    Duration::from_secs(60) * patience.unwrap_or(1)
}

/// Runs `test` in a new namespace, or says that it cannot.
pub fn inside<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: geteuid and unshare take no pointers; unshare changes only the calling thread.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        // SAFETY: as above.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(deadline(), test(Netlink::open().unwrap())).await.unwrap() });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs ip(8) in the namespace; returns its output, which ends lines with a space.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    run(&format!("ip {arguments}"))
}

/// Runs a program in the namespace; returns its output.
#[track_caller]
pub fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of `ip ARGUMENTS`, without the spaces at their ends.
#[track_caller]
pub fn lines(arguments: &str) -> Vec<String> {
    ip(arguments).lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Two interfaces, up and connected: `eth0` with 10.1.0.2/24 and fd01::2/64, and `peer0` without.
pub fn wire() {
    ip("link add eth0 type veth peer name peer0");
    ip("addr add 10.1.0.2/24 dev eth0");
    ip("addr add fd01::2/64 dev eth0 nodad");
    ip("link set eth0 up");
    ip("link set peer0 up");
}

/// The route of this text.
#[track_caller]
pub fn route(text: &str) -> Route {
    text.parse().unwrap()
}

/// A set of anything that can be parsed or made from text.
pub fn set<T: Ord>(texts: &[&str], parse: impl Fn(&str) -> T) -> std::collections::BTreeSet<T> {
    texts.iter().map(|text| parse(text)).collect()
}

/// Fails the test if there were errors.
#[track_caller]
pub fn no_errors<E: std::fmt::Debug>(errors: Vec<E>) {
    assert!(errors.is_empty(), "{errors:#?}");
}
