//! `kgctl` shows, explains and extends the mesh: data on stdout, messages on stderr.
#![forbid(unsafe_code)]

mod absent;
mod cidrs;
mod cli;
mod cluster;
mod completion;
mod connect;
#[cfg(test)]
mod docs;
mod doctor;
mod graph;
mod mesh;
mod outcome;
mod probe;
mod reach;
mod showconf;
mod status;
mod terminal;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    outcome::Outcome,
};

fn main() -> ExitCode {
    completion::answer();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => outcome::report(&error, cli.global.verbose),
    }
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(command(cli));
    // A DNS question that nobody answers must not hold up the end of the process.
    runtime.shutdown_background();
    result
}

async fn command(cli: &Cli) -> anyhow::Result<Outcome> {
    let global = &cli.global;
    match &cli.command {
        Command::Cluster(command) => cluster::run(command, global).await,
        Command::Completion(shell) => completion::run(shell),
        Command::Connect(command) => connect::run(command, global).await,
        Command::Doctor(command) => doctor::run(command, global).await,
        Command::Graph(command) => graph::run(command, global).await,
        Command::Showconf(command) => showconf::run(command, global).await,
        Command::Status(command) => status::run(command, global).await,
        Command::Verify(command) => verify::run(command, global).await,
    }
}
