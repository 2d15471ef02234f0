//! The shell towards Linux against the real kernel: every test in a network namespace of its own.

mod addresses;
mod facts;
mod files;
mod firewall;
mod host;
mod iptables;
mod namespace;
mod ping;
mod probe;
mod routes;
mod rules;
mod tunnel;
mod watch;
