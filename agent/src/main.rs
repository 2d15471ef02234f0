//! The binary `kg`. Exit codes: 0 after a clean stop, 1 after a failure, 2 for wrong flags.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent::{
    causes,
    flags::{Args, Command},
    logging::{self, LogFormat, LogLevel},
    os::install,
    panic, run, webhook,
};
use clap::Parser;

/// Wrong flags, as clap's own exit code for them.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Some(Command::Version) => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(Command::Webhook(args)) => {
            let log = (args.log_level, args.log_format);
            return run_to_the_end("the webhook", log, || webhook::blocking(args));
        }
        Some(Command::InstallCni(args)) => {
            let log = (LogLevel::Info, LogFormat::Json);
            return run_to_the_end("the installation", log, || Ok(install::install(&args)?));
        }
        None => {}
    }
    match args.validate() {
        Ok(options) => run_to_the_end("the agent", (options.log_level, options.log_format), || run::blocking(options)),
        Err(error) => {
            eprintln!("error: {error}\n\nFor more information, try 'kg --help'.");
            ExitCode::from(USAGE)
        }
    }
}

fn run_to_the_end(
    what: &str,
    (level, format): (LogLevel, LogFormat),
    run: impl FnOnce() -> anyhow::Result<()>,
) -> ExitCode {
    logging::init(level, format);
    panic::end_process();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not only to the log: its level may hide even errors.
            let error = causes::text(error.as_ref());
            tracing::error!(error, "{what} stops");
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
