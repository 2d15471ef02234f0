//! Log lines: one JSON object a line on standard output, as Kilo's are.

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// The crates whose events the user's level is about.
const OURS: [&str; 4] = ["agent", "engine", "kg", "topology"];

/// Values of `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Everything, the libraries' own events included.
    All,
    /// What helps to find a fault.
    Debug,
    /// What changes.
    Info,
    /// What is wrong with one object and was worked around.
    Warn,
    /// What failed.
    Error,
    /// Nothing.
    None,
}

impl LogLevel {
    /// The level of our own crates, and that of everything else: libraries report failures to us,
    /// and we log them, so that theirs would be the same news again.
    fn filters(self) -> (LevelFilter, LevelFilter) {
        match self {
            Self::All => (LevelFilter::TRACE, LevelFilter::TRACE),
            Self::Debug => (LevelFilter::DEBUG, LevelFilter::OFF),
            Self::Info => (LevelFilter::INFO, LevelFilter::OFF),
            Self::Warn => (LevelFilter::WARN, LevelFilter::OFF),
            Self::Error => (LevelFilter::ERROR, LevelFilter::OFF),
            Self::None => (LevelFilter::OFF, LevelFilter::OFF),
        }
    }
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn init(level: LogLevel) {
    let (ours, others) = level.filters();
    let targets = Targets::new().with_default(others).with_targets(OURS.map(|name| (name, ours)));
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    // Only a second subscriber makes this fail, and then the first one keeps working.
    let _ = tracing_subscriber::registry().with(lines.with_filter(targets)).try_init();
}
