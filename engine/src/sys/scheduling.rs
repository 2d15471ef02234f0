//! What a thread asks of the scheduler (`sched(7)`, `sched_setattr(2)`).

use std::io;
use std::time::Duration;

use super::check;

/// `struct sched_attr` in its first version, which all kernels know (`include/uapi/linux/sched/types.h`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Nanoseconds. For time-sharing policies the wanted slice, since Linux 6.12; before, without a meaning.
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for time slices of this length for the calling thread: shorter ones come sooner, and the share of the
/// processor stays what it is; zero takes the wish back. Kernels before 6.12 take either and do nothing.
///
/// # Errors
/// Those of the kernel; a thread under another policy than the usual ones is left as it is and gives none.
pub(crate) fn request_slice(slice: Duration) -> io::Result<()> {
    let mut attributes = attributes()?;
    let usual = [libc::SCHED_OTHER, libc::SCHED_BATCH];
    if !usual.contains(&attributes.policy.cast_signed()) {
        return Ok(());
    }
    attributes.runtime = slice.as_nanos() as u64;
    let (this_thread, no_flags) = (0, 0);
    // SAFETY: the kernel reads `attributes.size` bytes, which is what there is.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, &raw const attributes, no_flags) };
    check(set as libc::c_int).map(drop)
}

/// Those of the calling thread.
fn attributes() -> io::Result<Attributes> {
    let size = size_of::<Attributes>() as u32;
    let mut attributes = Attributes::default();
    let (this_thread, no_flags) = (0, 0);
    // SAFETY: the kernel writes at most `size` bytes to `attributes`, which has so many, all plain numbers.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, this_thread, &raw mut attributes, size, no_flags) };
    check(got as libc::c_int)?;
    // The kernel's is longer than ours, if it knows more.
    Ok(Attributes { size, ..attributes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_asked_for_and_nothing_else_changes() {
        // A thread of its own: nobody else shall have the slice.
        let (before, after) = std::thread::spawn(|| {
            let before = attributes().unwrap();
            request_slice(Duration::from_micros(300)).unwrap();
            (before, attributes().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((after.policy, after.nice, after.priority), (before.policy, before.nice, before.priority));
        // Kernels before 6.12 tell of none, or of the same as before.
        assert!([300_000, before.runtime].contains(&after.runtime), "{} ns", after.runtime);
    }
}
