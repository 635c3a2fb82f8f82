//! Discovery from outside: the rules, the resolver's packets, and the server on loopback.

mod cache;
mod hardening;
mod manifests;
mod packets;
mod quick;
mod resolver;
mod rules;
mod server;
mod slow;
