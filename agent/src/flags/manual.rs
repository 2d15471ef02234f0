//! docs/kg.md, made of the flags' own texts and kept right by the test below.

use std::{fmt::Write as _, fs, path::Path};

use clap::{Command, CommandFactory};

use super::Args;

/// Set to anything, it lets the test write what it otherwise compares (`make docs`).
const WRITE: &str = "KG_WRITE_DOCS";

/// The flags of `command` as a table. Writing to a string does not fail.
fn flags(command: &Command) -> String {
    let mut table = "| flag | default | |\n|---|---|---|\n".to_owned();
    let told = command.get_arguments().filter(|arg| arg.get_long().is_some() && !arg.is_hide_set());
    for arg in told.filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<_> = arg.get_value_names().unwrap_or_default().iter().map(|name| name.to_string()).collect();
        let values = values.join(" ").replace('|', "\\|");
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = Some(default.join(",")).filter(|text| !text.is_empty());
        let default = default.map(|text| format!("`{text}`")).unwrap_or_default();
        let name = arg.get_long().unwrap_or_default();
        _ = writeln!(table, "| `--{name}={values}` | {default} | {help} |");
    }
    table
}

fn manual() -> String {
    let mut root = Args::command().disable_help_subcommand(true);
    root.build();
    let mut text = "<!-- Made of kg's --help by `make docs`; change it there. -->\n\n# kg\n\n".to_owned();
    let about = root.get_about().map(ToString::to_string).unwrap_or_default();
    _ = write!(
        text,
        "{about}.\n\nThe flags are upstream's, with a few more. Values follow `=` or a space, those of true|false only `=`; \
         alone, such a flag means true. Durations are as `30s` and `1m30s`. When a flag is given twice, the last one \
         counts, or both where it is repeatable. Exit codes: 0 after a clean stop, 1 after a failure, 2 for wrong \
         flags.\n\n"
    );
    text += &flags(&root);
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        _ = write!(text, "\n## kg {}\n\n{about}.\n", command.get_name());
        if command.get_arguments().any(|arg| arg.get_long().is_some_and(|name| name != "help")) {
            _ = write!(text, "\n{}", flags(command));
        }
    }
    text
}

#[test]
fn the_manual_in_docs_is_what_the_flags_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kg.md");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, manual()).expect("docs/kg.md can be written");
        return;
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    assert!(present == manual(), "docs/kg.md is not what kg --help says: run `make docs` and commit it");
}
