//! kgctl
fn main() {}
