//! Discovery from outside: the rules, the resolver's packets, and the server on loopback.

mod manifests;
mod resolver;
mod rules;
mod server;
