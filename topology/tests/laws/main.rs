//! Laws that hold for every cluster, tried on random ones.
#![allow(clippy::unwrap_used, missing_docs)]

mod codec;
#[path = "../common/mod.rs"]
mod common;
mod conflist;
mod connect;
mod forward;
mod generate;
mod graph;
mod hostile;
mod join;
mod membership;
mod mesh;
mod reach;

use proptest::test_runner::Config;

/// Few enough cases for a debug build on a busy machine; `PROPTEST_CASES` asks for another number.
pub fn cases(cases: u32) -> Config {
    let asked = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { asked.cases } else { cases };
    Config { cases, failure_persistence: None, ..asked }
}
