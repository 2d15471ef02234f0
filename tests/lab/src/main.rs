//! `lab`: the demo, and a way to look into a lab that is up.
#![forbid(unsafe_code)]

mod demo;
mod report;
mod restart;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use lab::{state, sys};

/// How long `lab down` waits for a lab to end.
const DOWN_LIMIT: Duration = Duration::from_secs(30);
const READY: &str = "ready";

/// A small internet with a Kubernetes cluster spread over it, on this machine.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring up a mesh over three locations, show that it works and that it is encrypted
    Demo(DemoArguments),
    /// Run a command on a host or in a pod of a lab that is up
    Exec {
        /// Name of the lab
        #[arg(long, default_value = "demo")]
        name: String,
        /// A host, a pod, `control`, `internet` or `router-LOCATION`
        space: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// List the labs that are up, with their hosts and pods
    List,
    /// Restart an agent again and again, and print how long that interrupts what goes through its node
    Restart(restart::Arguments),
    /// End a lab that was left up
    Down {
        /// Name of the lab
        #[arg(long, default_value = "demo")]
        name: String,
    },
}

/// What the demo does.
#[derive(clap::Args, Clone)]
struct DemoArguments {
    /// Leave the lab up afterwards
    #[arg(long)]
    keep: bool,
    /// Name of the lab
    #[arg(long, default_value = "demo")]
    name: String,
    /// Which API server
    #[arg(long, value_enum, default_value_t = ApiName::Embedded)]
    api: ApiName,
    /// One tunnel end for a location, or one for a node
    #[arg(long, default_value = "location", value_parser = ["location", "full"])]
    granularity: String,
    /// Where to write the picture of the mesh
    #[arg(long, default_value = "artifacts", value_name = "DIRECTORY")]
    out: PathBuf,
    /// Internal: this is the process that stays when the lab is kept
    #[arg(long, hide = true)]
    stay: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ApiName {
    Embedded,
    Real,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Verb::Demo(arguments) if arguments.keep && !arguments.stay => supervise(&arguments),
        Verb::Demo(arguments) => demo(&arguments),
        Verb::Exec { name, space, command } => exec(&name, &space, &command),
        Verb::List => list(),
        Verb::Restart(arguments) => {
            end_on_signals().and_then(|()| restart::run(&arguments)).map(|()| ExitCode::SUCCESS)
        }
        Verb::Down { name } => down(&name),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The demo in this process. With `--stay` it does not come back before it is told to end.
fn demo(arguments: &DemoArguments) -> Result<ExitCode> {
    end_on_signals()?;
    if arguments.stay {
        sys::end_with_parent(true)?;
    }
    let (lab, passed) = demo::run(arguments)?;
    if arguments.stay {
        sys::end_with_parent(false)?;
        std::fs::write(lab.lab.directory().join(READY), if passed { "passed" } else { "failed" })?;
        sys::leave_terminal(&File::create(lab.lab.directory().join("demo.log"))?)?;
        loop {
            std::thread::park();
        }
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the demo in a child that stays, and returns when it has shown everything.
fn supervise(arguments: &DemoArguments) -> Result<ExitCode> {
    sys::ignore_interrupt();
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--stay")
        .spawn()
        .context("start the process that holds the lab")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .map_or(ExitCode::FAILURE, ExitCode::from));
        }
        // The name may be that of another lab, in which case the child ends by itself.
        let own = state::read(&arguments.name).is_ok_and(|lab| lab.pid == child.id());
        let ready = state::directory(&arguments.name).map(|directory| directory.join(READY));
        match ready.and_then(|path| Ok(std::fs::read_to_string(path)?)) {
            Ok(verdict) if own && !verdict.is_empty() => {
                return Ok(if verdict == "passed" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// From now on SIGINT and SIGTERM end this process and every lab in it. Namespaces and children need no
/// care: the kernel removes them with the process.
fn end_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _runtime = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        state::forget_own();
        std::process::exit(code);
    });
    Ok(())
}

fn exec(name: &str, space: &str, command: &[String]) -> Result<ExitCode> {
    let kubeconfig = state::directory(name)?.join("api/kubeconfig-on-hosts");
    let lab = state::read(name)?;
    let Some(entrances) = lab.spaces.get(space) else {
        let names: Vec<_> = lab.spaces.keys().map(String::as_str).collect();
        bail!("lab {name} has no {space}; it has {}", names.join(" "));
    };
    // All are opened before the first is entered: afterwards paths may mean something else.
    let open = |path: &PathBuf| File::open(path).with_context(|| format!("open {}", path.display()));
    let namespaces: Vec<File> = entrances.iter().map(open).collect::<Result<_>>()?;
    for namespace in &namespaces {
        sys::join(namespace.as_fd()).with_context(|| format!("enter {space}"))?;
    }
    let Some((program, arguments)) = command.split_first() else { bail!("no command") };
    let error = Command::new(program).args(arguments).env("KUBECONFIG", kubeconfig).exec();
    Err(error).with_context(|| format!("run {program}"))
}

fn list() -> Result<ExitCode> {
    for name in state::running()? {
        let lab = state::read(&name)?;
        let names: Vec<_> = lab.spaces.keys().map(String::as_str).collect();
        println!("{name} (process {}): {}", lab.pid, names.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

fn down(name: &str) -> Result<ExitCode> {
    let pid = state::read(name)?.pid;
    sys::kill(pid, libc::SIGTERM).with_context(|| format!("end lab {name}"))?;
    let deadline = Instant::now() + DOWN_LIMIT * lab::patience();
    while state::running()?.iter().any(|running| running == name) {
        if Instant::now() > deadline {
            bail!("lab {name} did not end within {DOWN_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    state::sweep_dead()?;
    println!("lab {name} is gone");
    Ok(ExitCode::SUCCESS)
}
