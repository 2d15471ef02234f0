//! The embedded Kubernetes API server as a program: `apiserver --listen 127.0.0.1:8001`.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use clap::Parser;

/// A Kubernetes API server that keeps its state in memory and lets everybody in: for tests and demos only.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Address and port to serve HTTP on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8001")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    eprintln!("serving http://{}", listener.local_addr()?);
    apiserver::serve(listener, apiserver::Store::new(), stop_signal()).await?;
    Ok(())
}

/// Completes on SIGINT and SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process by themselves.
        _ => std::future::pending().await,
    }
}
