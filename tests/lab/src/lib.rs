//! tests/lab
