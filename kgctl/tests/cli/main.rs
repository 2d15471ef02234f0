//! The program `kgctl` against an embedded API server: what it prints, what it says, how it ends.
#![allow(missing_docs)]

mod cluster;
mod completion;
mod errors;
mod graph;
mod join;
mod showconf;
mod status;
