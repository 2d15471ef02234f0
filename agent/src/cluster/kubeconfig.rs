//! Which cluster a person means: kubectl's rules for kubeconfig files (Kubernetes documentation,
//! "Organizing Cluster Access Using kubeconfig Files"), and errors that say how to mend the files.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use kube::{
    Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError as LoadError},
};

/// Why kubeconfig files name no cluster.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// There is no file.
    #[error("no kubeconfig: {0}; pass --kubeconfig FILE or set KUBECONFIG")]
    Missing(String),
    /// A file that cannot be used.
    #[error("kubeconfig {file}: {reason}")]
    Unusable {
        /// The file, or several, separated as in `$KUBECONFIG`.
        file: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

/// Where credentials come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// These files, merged; the first one's values win.
    Files(Vec<PathBuf>),
    /// The pod that this process runs in.
    ServiceAccount,
}

/// What the rules look at besides `--kubeconfig`.
pub(super) struct Surroundings {
    /// `$KUBECONFIG`.
    pub variable: Option<OsString>,
    /// `~/.kube/config`.
    pub default: Option<PathBuf>,
    /// Whether this process runs in a pod.
    pub is_in_pod: bool,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn here() -> Self {
        Self {
            variable: std::env::var_os("KUBECONFIG"),
            default: std::env::home_dir().map(|home| home.join(".kube/config")),
            is_in_pod: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        }
    }

    /// Where credentials come from if `--kubeconfig` is `flag`. Files in `$KUBECONFIG` that do not exist
    /// are passed over, but if none is left, that is an error: another cluster is never taken instead.
    pub(super) fn source(
        &self,
        flag: Option<&Path>,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Source, KubeconfigError> {
        if let Some(file) = flag {
            let is_empty = file.as_os_str().is_empty();
            return Ok(if is_empty { Source::ServiceAccount } else { Source::Files(vec![file.to_owned()]) });
        }
        if let Some(variable) = self.variable.as_ref().filter(|variable| !variable.is_empty()) {
            let files: Vec<_> = std::env::split_paths(variable).filter(|path| exists(path)).collect();
            if files.is_empty() {
                let named = variable.to_string_lossy();
                return Err(KubeconfigError::Missing(format!("$KUBECONFIG is {named}, which does not exist")));
            }
            return Ok(Source::Files(files));
        }
        match &self.default {
            Some(file) if exists(file) => Ok(Source::Files(vec![file.clone()])),
            _ if self.is_in_pod => Ok(Source::ServiceAccount),
            Some(file) => {
                Err(KubeconfigError::Missing(format!("$KUBECONFIG is not set and {} does not exist", file.display())))
            }
            None => Err(KubeconfigError::Missing("neither $KUBECONFIG nor $HOME is set".to_owned())),
        }
    }
}

/// The cluster and the user that `context`, else the current context, of `files` names.
pub(super) async fn load(files: &[PathBuf], context: Option<&str>) -> Result<Config, KubeconfigError> {
    let error_of = |file: String| move |error: &LoadError| KubeconfigError::Unusable { file, reason: reason(error) };
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let mut merged = Kubeconfig::default();
    for (file, name) in files.iter().zip(&names) {
        if is_cut_utf16(file) {
            let reason = "it is UTF-16 and ends within a character".to_owned();
            return Err(KubeconfigError::Unusable { file: name.clone(), reason });
        }
        let next = Kubeconfig::read_from(file).and_then(|next| merged.merge(next));
        merged = next.map_err(|error| error_of(name.clone())(&error))?;
    }
    let file = names.join(":");
    check(&merged, context).map_err(|reason| KubeconfigError::Unusable { file: file.clone(), reason })?;
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(merged, &options).await.map_err(|error| error_of(file.clone())(&error));
    let config = config?;
    if has_broken_token(&config.auth_info) {
        let reason = "its user's token is no single line of printable ASCII".to_owned();
        return Err(KubeconfigError::Unusable { file, reason });
    }
    Ok(config)
}

/// kube panics over a file in UTF-16 with an odd number of bytes. A pipe is not looked into: it can be
/// read only once.
fn is_cut_utf16(file: &Path) -> bool {
    let is_regular = std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file());
    let bytes = if is_regular { std::fs::read(file).unwrap_or_default() } else { Vec::new() };
    matches!(bytes.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) && bytes.len() % 2 == 1
}

/// kube panics over a token that cannot be sent in a header. Its type does not let it be read otherwise.
fn has_broken_token(user: &AuthInfo) -> bool {
    let user = serde_json::to_value(user).unwrap_or_default();
    let token = user.get("token").and_then(|token| token.as_str()).unwrap_or_default();
    token.bytes().any(|byte| !(b' '..=b'~').contains(&byte))
}

/// The name of the context that a person means by these flags: `context`, else the current one. `None`
/// if there is none, as in a pod, or the files cannot be read: connecting tells why.
pub fn context_name(kubeconfig: Option<&Path>, context: Option<&str>) -> Option<String> {
    if let Some(context) = context {
        return Some(context.to_owned());
    }
    let Ok(Source::Files(files)) = Surroundings::here().source(kubeconfig, Path::exists) else { return None };
    files.iter().find_map(|file| Kubeconfig::read_from(file).ok()?.current_context)
}

/// What is wrong with the choice of a context, if anything.
fn check(file: &Kubeconfig, context: Option<&str>) -> Result<(), String> {
    let names: Vec<_> = file.contexts.iter().map(|context| context.name.as_str()).collect();
    let choice = match names.as_slice() {
        [] => return Err("it has no contexts; is it a kubeconfig?".to_owned()),
        names => format!("pass --context with one of: {}", names.join(", ")),
    };
    let current = file.current_context.as_deref().filter(|name| !name.is_empty());
    let wanted = context.or(current).ok_or_else(|| format!("it has no current context; {choice}"))?;
    let found = file.contexts.iter().find(|context| context.name == wanted);
    let found = found.ok_or_else(|| format!("it has no context {wanted:?}; {choice}"))?;
    let cluster = found.context.as_ref().map(|context| context.cluster.as_str()).unwrap_or_default();
    if !file.clusters.iter().any(|other| other.name == cluster) {
        return Err(format!("its context {wanted:?} is of a cluster {cluster:?} that is not in the file"));
    }
    Ok(())
}

/// What loading complains about. Neither a part of the file, which may be a secret, nor the file's name.
fn reason(error: &LoadError) -> String {
    match error {
        LoadError::ReadConfig(error, _) => error.to_string(),
        LoadError::Parse(error) => {
            let place = error.location().map(|place| format!(" at line {}", place.line()));
            format!("it is not YAML of the form of a kubeconfig{}", place.unwrap_or_default())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn files(paths: &[&str]) -> Source {
        Source::Files(paths.iter().map(PathBuf::from).collect())
    }

    #[test]
    fn the_files_are_those_that_kubectl_would_use() {
        let present = ["/a", "/b", "/home/.kube/config"];
        for (flag, variable, is_in_pod, expected) in [
            (Some("/x"), Some("/a"), true, Ok(files(&["/x"]))),
            (Some(""), Some("/a"), true, Ok(Source::ServiceAccount)),
            (None, Some("/a:/missing::/b"), true, Ok(files(&["/a", "/b"]))),
            (None, Some("/missing"), true, Err("no kubeconfig: $KUBECONFIG is /missing, which does not exist; ")),
            (None, Some(""), true, Ok(files(&["/home/.kube/config"]))),
            (None, None, false, Ok(files(&["/home/.kube/config"]))),
        ] {
            let surroundings = Surroundings {
                variable: variable.map(OsString::from),
                default: Some("/home/.kube/config".into()),
                is_in_pod,
            };
            let exists = |path: &Path| present.iter().any(|present| Path::new(present) == path);
            let source = surroundings.source(flag.map(Path::new), exists).map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!(source, Ok(expected), "{flag:?} {variable:?}"),
                Err(start) => assert!(source.as_ref().is_err_and(|error| error.starts_with(start)), "{source:?}"),
            }
        }
    }

    #[test]
    fn without_any_file_a_pod_uses_its_service_account() {
        for (home, is_in_pod, expected) in [
            (Some("/home/.kube/config"), true, Ok(Source::ServiceAccount)),
            (
                Some("/home/.kube/config"),
                false,
                Err("no kubeconfig: $KUBECONFIG is not set and /home/.kube/config does not exist; pass --kubeconfig \
                     FILE or set KUBECONFIG"),
            ),
            (
                None,
                false,
                Err("no kubeconfig: neither $KUBECONFIG nor $HOME is set; pass --kubeconfig FILE or set KUBECONFIG"),
            ),
        ] {
            let surroundings = Surroundings { variable: None, default: home.map(PathBuf::from), is_in_pod };
            let source = surroundings.source(None, |_| false).map_err(|error| error.to_string());
            assert_eq!(source, expected.map_err(str::to_owned));
        }
    }

    const GOOD: &str = "current-context: a\n\
        clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
        users: [{name: u, user: {token: hunter2}}]\n\
        contexts: [{name: a, context: {cluster: c, user: u}}, {name: b, context: {cluster: gone}}]\n";

    /// What loading a file of this text says.
    async fn load_text(text: impl AsRef<[u8]>, context: Option<&str>) -> Result<String, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_ref()).unwrap();
        let name = format!("kubeconfig {}: ", file.path().display());
        let loaded = load(&[file.path().to_owned()], context).await;
        loaded.map(|config| config.cluster_url.to_string()).map_err(|error| error.to_string().replace(&name, ""))
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_said_with_what_to_do_and_no_secret() {
        let choice = "pass --context with one of: a, b";
        let stray = GOOD.replace("current-context: a\n", "");
        let broken = GOOD.replace("hunter2}", "hunter2");
        for (text, context, expected) in [
            (GOOD, None, Ok("http://127.0.0.1:1/".to_owned())),
            (GOOD, Some("z"), Err(format!("it has no context \"z\"; {choice}"))),
            (GOOD, Some("b"), Err("its context \"b\" is of a cluster \"gone\" that is not in the file".to_owned())),
            (&stray, None, Err(format!("it has no current context; {choice}"))),
            ("{}", None, Err("it has no contexts; is it a kubeconfig?".to_owned())),
            (&broken, None, Err("it is not YAML of the form of a kubeconfig at line 3".to_owned())),
            (
                &GOOD.replace("hunter2", "\"hunter\\n2\""),
                None,
                Err("its user's token is no single line of printable ASCII".to_owned()),
            ),
            ("hunter2", None, Err("it is not YAML of the form of a kubeconfig at line 1".to_owned())),
        ] {
            assert_eq!(load_text(text, context).await, expected, "{text}");
        }
        let cut = load_text(b"\xff\xfe\0", None).await;
        assert_eq!(cut, Err("it is UTF-16 and ends within a character".to_owned()));
        let missing = load(&["/nonexistent".into()], None).await.err().map(|error| error.to_string());
        assert_eq!(missing.unwrap(), "kubeconfig /nonexistent: No such file or directory (os error 2)");
    }
}
