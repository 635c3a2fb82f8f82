//! What the DNS of a cluster weighs: 100,000 services of 10 endpoints, half of them headless with hostnames.
//!
//! Bytes are those that were asked for and not given back, by difference: the view of the services and the zone, without the
//! state that they are derived from. Told twice: the cluster's own services only, and all of them exported, so that each
//! endpoint has its names in both zones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_benches::allocations::{LiveBytes, resident};
use mesh_benches::services::Catalog;
use mesh_core::{Change, Services, State};
use mesh_discovery::{ZoneBuilder, ZoneConfig};

#[global_allocator]
static ALLOCATOR: LiveBytes = LiveBytes;

fn main() {
    if !mesh_benches::is_wanted("discovery_memory") {
        return;
    }
    let services = if mesh_benches::is_measured() { 100_000 } else { 100 };
    for exported in [false, true] {
        let catalog = Catalog { services, endpoints: 10, exported };
        let before = LiveBytes::now();
        let start = Instant::now();
        let state = catalog.state();
        let told = start.elapsed();
        report(catalog, &state, LiveBytes::now() - before, told);
    }
}

fn report(catalog: Catalog, state: &State, state_bytes: usize, told: Duration) {
    let Catalog { services: count, endpoints, exported } = catalog;
    let per = |bytes: usize| bytes as f64 / f64::from(count * endpoints);
    let (before, resident_before) = (LiveBytes::now(), resident());
    LiveBytes::reset_peak();
    let start = Instant::now();
    let mut services = Services::new(Catalog::cluster());
    let all = services.update(state, &Change::default());
    let view = LiveBytes::now() - before;
    let mut builder = ZoneBuilder::new(&ZoneConfig::default());
    let zone = Arc::clone(builder.update(&services, &all));
    drop(all);
    let elapsed = start.elapsed();
    let (live, peak, resident) =
        (LiveBytes::now() - before, LiveBytes::peak() - before, resident().saturating_sub(resident_before));
    println!("{count} services of {endpoints} endpoints, exported: {exported}; names of services: {:?}", zone.len());
    println!("state            {:>8.1} bytes per endpoint, told in {told:.1?}", per(state_bytes));
    println!("services         {:>8.1} bytes per endpoint", per(view));
    println!("services, zone   {:>8.1} bytes per endpoint, derived in {elapsed:.1?}", per(live));
    println!("peak             {:>8.1} bytes per endpoint, while deriving", per(peak));
    println!("resident         {:>8.1} bytes per endpoint more than before", per(resident));
    println!(
        r#"{{"services":{count},"endpoints":{endpoints},"exported":{exported},"state_bytes":{state_bytes},"services_bytes":{view},"services_and_zone_bytes":{live},"peak_bytes":{peak},"resident_bytes":{resident},"derive_ms":{},"services_and_zone_bytes_per_endpoint":{:.1}}}"#,
        elapsed.as_millis(),
        per(live),
    );
}
