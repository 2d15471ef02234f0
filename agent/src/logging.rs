//! Log lines: the agent's on standard output, one JSON object a line as Kilo's are, or text; and those of a
//! program that a person runs, in words on standard error.

use std::fmt;

use clap::ValueEnum;
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// The crates whose events the user's level is about.
const OURS: [&str; 5] = ["agent", "engine", "kg", "kgctl", "topology"];

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

/// Values of `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// An object a line, as Kilo's.
    Json,
    /// Time, level, and the event's text and fields.
    Text,
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    let lines = tracing_subscriber::fmt::layer();
    // Only a second subscriber makes this fail, and then the first one keeps working.
    let _ = match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            tracing_subscriber::registry().with(lines.with_filter(targets(level))).try_init()
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(false).with_target(false);
            tracing_subscriber::registry().with(lines.with_filter(targets(level))).try_init()
        }
    };
}

/// As [`init`], for `program` in a terminal: its name, the event's text and fields in a line.
pub fn init_terminal(program: &'static str, level: LogLevel) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(Words { program });
    let _ = tracing_subscriber::registry().with(lines.with_filter(targets(level))).try_init();
}

fn targets(level: LogLevel) -> Targets {
    let (ours, others) = level.filters();
    Targets::new().with_default(others).with_targets(OURS.map(|name| (name, ours)))
}

/// Events as a command-line program says them.
struct Words {
    program: &'static str,
}

impl<S, N> FormatEvent<S, N> for Words
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let severity = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        write!(to, "{}: {severity}", self.program)?;
        ctx.format_fields(to.by_ref(), event)?;
        writeln!(to)
    }
}
