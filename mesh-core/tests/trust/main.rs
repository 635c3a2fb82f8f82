//! Who is believed: grants, signed records, leases, publishers and snapshots, told as stories and checked as properties.

mod adversary;
mod fixture;
mod forgetting;
mod incremental;
mod properties;
mod publishing;
mod resting;
mod rotation;
mod snapshots;
mod standing;
mod stories;
mod times;
