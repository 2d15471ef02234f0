//! The network configurations among which the container runtime chooses.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use topology::{
    cni::{is_configuration, plugin_types},
    doctor::diagnosis::{CniDirectory, CniFile},
};

/// Files that are told of at most; the first one matters.
const FILES: usize = 32;

/// The longest file that is read, bytes.
const LONGEST: u64 = 256 * 1024;

/// The files beside `conflist`, in the order of their names.
pub(super) fn read(conflist: &Path) -> CniDirectory {
    let directory = conflist.parent().unwrap_or(Path::new("/"));
    let mut names = names(directory).unwrap_or_default();
    names.sort_unstable();
    names.truncate(FILES);
    CniDirectory {
        path: directory.display().to_string(),
        own: conflist.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        files: names.into_iter().map(|name| file(directory, name)).collect(),
    }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| is_configuration(name)).collect())
}

fn file(directory: &Path, name: String) -> CniFile {
    let text = || -> io::Result<String> {
        let mut text = String::new();
        File::open(directory.join(&name))?.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    };
    let types = text().map_err(|error| error.to_string());
    match types.and_then(|text| plugin_types(&name, &text).map_err(|error| error.to_string())) {
        Ok(plugins) => CniFile { name, plugins, error: None },
        Err(error) => CniFile { name, plugins: Vec::new(), error: Some(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_in_order_with_what_is_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("20-b.conf", r#"{"type":"ptp"}"#);
        write("10-kilo.conflist", r#"{"plugins":[{"type":"bridge"},{"type":"portmap"}]}"#);
        write("05-broken.conflist", "{");
        write("00-old.conflist.bak", "{");
        let found = read(&directory.path().join("10-kilo.conflist"));
        let seen: Vec<_> =
            found.files.iter().map(|file| (file.name.as_str(), file.plugins.join(","), file.error.is_some())).collect();
        assert_eq!(
            seen,
            [
                ("05-broken.conflist", String::new(), true),
                ("10-kilo.conflist", "bridge,portmap".to_owned(), false),
                ("20-b.conf", "ptp".to_owned(), false)
            ]
        );
        assert_eq!(found.own, "10-kilo.conflist");
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_files() {
        assert_eq!(read(Path::new("/nonexistent/x.conflist")).files, []);
    }
}
