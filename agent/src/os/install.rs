//! What makes the mesh a node's CNI network: plugins where the kubelet's container runtime looks for them, and
//! a network configuration that it takes. Done before the agent starts, with rights that the agent does not have.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use topology::cni::{calls_others, installed, plugin_types, preferred_to};
use tracing::{info, warn};

use super::{
    Error,
    file::{self, Survives},
};

/// Appended to the name of a configuration that would be taken in place of ours, so that it is not one any more.
const ASIDE: &str = ".kilo-aside";

/// Flags of `kg install-cni`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the plugins are
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIRECTORY")]
    pub plugins: PathBuf,

    /// Where they are copied to, on the host
    #[arg(long, value_name = "DIRECTORY")]
    pub to: PathBuf,

    /// The network configuration to install, without the node's ranges
    #[arg(long, value_name = "FILE")]
    pub configuration: PathBuf,

    /// The file that it is installed in; others in its directory that would be taken instead are renamed
    #[arg(long, default_value = "/etc/cni/net.d/10-kilo.conflist", value_name = "FILE")]
    pub cni_path: PathBuf,
}

/// Installs plugins and configuration; changes nothing that is right already.
pub fn install(args: &Args) -> Result<(), Error> {
    let plugins = files_in(&args.plugins)?;
    for name in &plugins {
        install_program(&args.plugins.join(name), &args.to.join(name))?;
    }
    install_configuration(&args.configuration, &args.cni_path, &plugins)?;
    set_aside(&args.cni_path)
}

/// A plugin may be running: its file is replaced, not written to.
fn install_program(from: &Path, to: &Path) -> Result<(), Error> {
    let program = fs::read(from).map_err(|source| Error::file("read", from, source))?;
    if fs::read(to).is_ok_and(|present| present == program) && is_executable(to) {
        return Ok(());
    }
    file::replace(to, &program, 0o755, Survives::PowerLoss).map_err(|source| Error::file("write", to, source))?;
    info!(plugin = %to.display(), "installed");
    Ok(())
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0o111)
}

fn install_configuration(from: &Path, to: &Path, own: &[String]) -> Result<(), Error> {
    let wanted = fs::read_to_string(from).map_err(|source| Error::file("read", from, source))?;
    let present = match fs::read_to_string(to) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(Error::file("read", to, source)),
    };
    let new = installed(&wanted, present.as_deref(), own);
    let Some(text) = new.map_err(|source| Error::Cni { path: from.to_owned(), source })? else { return Ok(()) };
    file::replace(to, text.as_bytes(), 0o644, Survives::PowerLoss)
        .map_err(|source| Error::file("write", to, source))?;
    info!(configuration = %to.display(), "installed");
    Ok(())
}

fn set_aside(own: &Path) -> Result<(), Error> {
    let (Some(directory), Some(name)) = (own.parent(), own.file_name()) else { return Ok(()) };
    for other in preferred_to(&name.to_string_lossy(), files_in(directory)?) {
        let (path, aside) = (directory.join(&other), directory.join(format!("{other}{ASIDE}")));
        if may_come_first(&other, &path) {
            continue;
        }
        fs::rename(&path, &aside).map_err(|source| Error::file("rename", &path, source))?;
        warn!(configuration = %path.display(), aside = %aside.display(), "it would be taken instead of ours: renamed");
    }
    Ok(())
}

fn may_come_first(name: &str, path: &Path) -> bool {
    let plugins = fs::read_to_string(path).ok().and_then(|text| plugin_types(name, &text).ok());
    plugins.is_some_and(|plugins| calls_others(&plugins))
}

/// The names of all files in a directory, links to files included.
fn files_in(directory: &Path) -> Result<Vec<String>, Error> {
    let list = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
        let files = entries.iter().filter(|entry| entry.path().is_file());
        Ok(files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    list().map_err(|source| Error::file("list", directory, source))
}
