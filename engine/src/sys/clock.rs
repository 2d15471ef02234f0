//! The clock of all timers (`clock_gettime(2)`).

use std::mem::zeroed;
use std::time::Duration;

/// Time since the machine was started, and what it slept of that (`CLOCK_BOOTTIME`, which Linux takes for WireGuard, too):
/// the other side's sessions grow old while this one sleeps.
pub(crate) fn since_boot() -> Duration {
    // SAFETY: timespec is plain data for which all zeros is a valid value.
    let mut time: libc::timespec = unsafe { zeroed() };
    // SAFETY: `time` is a timespec, valid for the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    debug_assert_eq!(result, 0, "Linux has this clock since 2.6.39");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The time since the start as the kernel tells it, to a hundredth of a second.
    fn uptime() -> Duration {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
    }

    #[test]
    fn it_goes_on_while_the_machine_sleeps() {
        let hundredth = Duration::from_millis(10);
        let (before, now, after) = (uptime(), since_boot(), uptime());
        assert!(before <= now + hundredth && now <= after + hundredth, "{before:?} {now:?} {after:?}");

        // Most machines that test have never slept. In a namespace in which this clock, and no other, is ahead as after
        // sleep, the same is looked at again.
        let ahead = ["--time", "--boottime", "1000000"];
        if std::env::var_os("AHEAD").is_some() {
            return;
        }
        if !Command::new("unshare").args(ahead).arg("true").status().is_ok_and(|status| status.success()) {
            return eprintln!("SKIPPED: needs root, unshare and time namespaces");
        }
        let test = std::env::current_exe().unwrap();
        let name = concat!(module_path!(), "::it_goes_on_while_the_machine_sleeps");
        let (_, name) = name.split_once("::").unwrap();
        let again = Command::new("unshare").args(ahead).arg(test).args(["--exact", name]).env("AHEAD", "1").output();
        let again = again.unwrap();
        let report = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && report.contains("1 passed"), "{again:?}");
    }
}
