//! What a panic means for a process of several threads.

/// Ends the process when any thread panics, those that move packets included: an agent that goes on
/// with a part of it missing looks healthy, and whoever supervises it can start it again.
pub fn end_process() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(1);
    }));
}
