//! `kgctl graph`: a picture of the mesh.

use crate::{
    cli::Global,
    mesh::Mesh,
    outcome::{self, Outcome},
};

/// Prints the mesh as DOT.
pub async fn run(global: &Global) -> anyhow::Result<Outcome> {
    let mesh = Mesh::read(global).await?;
    outcome::print(&mesh.topology.dot())
}
