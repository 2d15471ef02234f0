//! The manual, made of the command line's own texts: docs/kgctl.md and the man pages in docs/man. They
//! are kept in the repository because people read them there, and the test below keeps them right.
//!
//! What stands at the end of a command's help (`after_help`) is made of parts, separated by an empty
//! line, each with its title and a colon on a line of its own.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use clap::{Arg, Command, CommandFactory, builder::StyledStr};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use crate::cli::Cli;

/// Set to anything, it lets the test write what it otherwise compares (`make docs`).
const WRITE: &str = "KGCTL_WRITE_DOCS";

/// The manual's files by their path below docs/.
fn manual() -> BTreeMap<String, String> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut files = BTreeMap::new();
    let mut text = "<!-- Made of kgctl's --help by `make docs`; change it there. -->\n".to_owned();
    visit(&root, &mut |command| {
        section(command, &mut text);
        let man = Man::new(command.clone());
        files.insert(format!("man/{}", man.get_filename()), man_page(&man, command));
    });
    files.insert("kgctl.md".to_owned(), text);
    files
}

/// Goes through a command and those below it, as they are listed in help.
fn visit(command: &Command, look: &mut impl FnMut(&Command)) {
    look(command);
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).for_each(|sub| visit(sub, look));
}

/// The titled parts of what stands at the end of a command's help.
fn parts(command: &Command) -> Vec<(String, String)> {
    let text = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let part = |part: &str| {
        let (title, body) = part.split_once(":\n").unwrap_or(("Notes", part));
        let lines: Vec<_> = body.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        (title.to_owned(), lines.join("\n"))
    };
    text.unwrap_or_default().split("\n\n").filter(|text| !text.is_empty()).map(part).collect()
}

/// Help without the full stop that clap takes away from a single paragraph.
fn sentence(help: Option<&StyledStr>) -> String {
    let text = help.map(ToString::to_string).unwrap_or_default();
    if text.is_empty() || text.ends_with('.') { text } else { text + "." }
}

/// A command's man page; clap_mangen's own would call the parts at its end `EXTRA`.
fn man_page(man: &Man, command: &Command) -> String {
    let mut page = Vec::new();
    let mut write = || {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if command.has_subcommands() {
            man.render_subcommands_section(&mut page)?;
        }
        for (title, body) in parts(command) {
            let mut roff = Roff::new();
            roff.control("SH", [title.to_uppercase().as_str()]).control("nf", []);
            body.lines().for_each(|line| _ = roff.text([roman(line)]));
            roff.control("fi", []).to_writer(&mut page)?;
        }
        Ok::<_, std::io::Error>(())
    };
    write().expect("writing to memory does not fail");
    String::from_utf8(page).expect("help is text")
}

/// A command's section of docs/kgctl.md. Writing to a string does not fail.
fn section(command: &Command, out: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let level = "#".repeat(name.split(' ').count().min(3));
    let about = command.get_long_about().or(command.get_about());
    let mut usage = command.clone();
    let usage = usage.render_usage().to_string();
    _ = writeln!(out, "\n{level} {name}\n\n{}", sentence(about));
    _ = writeln!(out, "\n```text\n{}\n```", usage.trim_start_matches("Usage: ").trim_end());
    // Global flags are told once.
    let is_told = |arg: &&Arg| !arg.is_hide_set() && (!arg.is_global_set() || command.get_name() == name);
    let mut args: Vec<&Arg> = command.get_arguments().filter(is_told).collect();
    args.retain(|arg| !["help", "version"].contains(&arg.get_id().as_str()));
    if !args.is_empty() {
        out.push('\n');
    }
    args.iter().for_each(|arg| item(arg, out));
    let subcommands: Vec<_> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
    if !subcommands.is_empty() {
        _ = writeln!(out, "\n| command | |\n|---|---|");
    }
    for sub in subcommands {
        let sub_name = format!("{name} {}", sub.get_name());
        let anchor = sub_name.replace(' ', "-");
        _ = writeln!(out, "| [`{sub_name}`](#{anchor}) | {} |", sentence(sub.get_about()));
    }
    for (title, body) in parts(command) {
        _ = writeln!(out, "\n**{title}**\n\n```text\n{body}\n```");
    }
}

/// An argument as an item of a list.
fn item(arg: &Arg, out: &mut String) {
    let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let help = sentence(arg.get_long_help().or(arg.get_help()));
    _ = write!(out, "* `{short}{arg}`: {}", help.replace("\n\n", "\n\n  "));
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && !arg.is_hide_default_value_set() && arg.get_action().takes_values() {
        _ = write!(out, " [default: `{}`]", defaults.join(","));
    }
    out.push('\n');
    let values = arg.get_possible_values();
    for value in values.iter().filter(|value| arg.get_action().takes_values() && !value.is_hide_set()) {
        let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
        _ = writeln!(out, "  * `{}`{help}", value.get_name());
    }
}

#[test]
fn the_manual_in_docs_is_what_the_command_line_says() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let manual = manual();
    let listed = |entry: fs::DirEntry| format!("man/{}", entry.file_name().to_string_lossy());
    let present = fs::read_dir(docs.join("man")).into_iter().flatten().flatten().map(listed);
    let stale: Vec<_> = present.filter(|name| !manual.contains_key(name)).collect();
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(docs.join("man")).expect("docs/man can be made");
        stale.iter().for_each(|name| fs::remove_file(docs.join(name)).expect("a stale page can be removed"));
        manual.iter().for_each(|(name, text)| fs::write(docs.join(name), text).expect("docs can be written"));
        return;
    }
    let differs = |(name, text): &(&String, &String)| fs::read_to_string(docs.join(name)).ok().as_ref() != Some(text);
    let outdated: Vec<_> = manual.iter().filter(differs).map(|(name, _)| name).chain(&stale).collect();
    assert!(outdated.is_empty(), "docs/ is not what kgctl --help says: run `make docs` and commit {outdated:?}");
}
