//! The binary `kg`. Exit codes: 0 after a clean stop, 1 after a failure, 2 for wrong flags.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent::{
    causes,
    flags::{Args, Command},
    logging, panic, run,
};
use clap::Parser;

/// Wrong flags, as clap's own exit code for them.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Version) = args.command {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let options = match args.validate() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}\n\nFor more information, try 'kg --help'.");
            return ExitCode::from(USAGE);
        }
    };
    logging::init(options.log_level);
    panic::end_process();
    match run::blocking(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not only to the log: its level may hide even errors.
            let error = causes::text(error.as_ref());
            tracing::error!(error, "the agent stops");
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
