//! docs/annotations.md, made of the annotations' own descriptions.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use topology::annotations::{DESCRIPTIONS, OWNED};

/// Set to anything, it lets the test write what it otherwise compares (`make docs`).
const WRITE: &str = "KG_WRITE_DOCS";

/// Those that the agent owns, or those that people write. Writing to a string does not fail.
fn table(owned: bool) -> String {
    let mut table = "| annotation | value | |\n|---|---|---|\n".to_owned();
    for told in DESCRIPTIONS.iter().filter(|told| OWNED.contains(&told.key) == owned) {
        _ = writeln!(table, "| `{}` | {} | {} |", told.key, told.value, told.effect);
    }
    table
}

fn page() -> String {
    let (yours, ours) = (table(false), table(true));
    format!(
        "<!-- Made of topology/src/annotations.rs by `make docs`; change it there. -->\n\n\
         # Annotations of Nodes\n\n\
         An annotation that makes no sense is left out and told of: in the agents' logs, as an Event at the Node, and \
         by `kgctl doctor`. The rest of the Node counts all the same.\n\n\
         ## What people write\n\n{yours}\n\
         ## What the agent writes\n\n\
         It keeps them right while it runs, and removes them on a clean stop unless `--clean-up=false`.\n\n{ours}"
    )
}

#[test]
fn every_annotation_is_documented() {
    let source = include_str!("../../src/annotations.rs");
    let keys = source.split("= \"kilo.squat.ai/").skip(1).filter_map(|rest| rest.split_once('"'));
    let keys: BTreeSet<String> = keys.map(|(key, _)| format!("kilo.squat.ai/{key}")).collect();
    let told: BTreeSet<String> = DESCRIPTIONS.iter().map(|told| told.key.to_owned()).collect();
    assert_eq!(told, keys);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/annotations.md");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, page()).unwrap();
        return;
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    assert!(present == page(), "docs/annotations.md is not what the code says: run `make docs` and commit it");
}
