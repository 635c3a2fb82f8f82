//! Names for programs: a program that wants to know what a service's name means, without a DNS server in between, and to be
//! told when that changes.
//!
//! It reads manifests, looks some names up, and changes a manifest; a task that follows the zone prints what is different.
//! Nothing is listened to. Run it with `cargo run -p mesh-discovery --example names`.

use std::io::Write;
use std::sync::Arc;

use mesh_core::manifest::Checked;
use mesh_core::{Change, Event, Now, Resource, Services, SourceId};
use mesh_discovery::{Lookup, Record, RecordType, Zone, ZoneBuilder, ZoneConfig};
use tokio::sync::{oneshot, watch};

const MANIFESTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}}
---
{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: db, namespace: shop}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
ports: [{name: pg, port: 5432}]
endpoints:
- {addresses: [10.1.0.5], hostname: db-0}
- {addresses: [10.1.0.6], hostname: db-1}
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&mut std::io::stdout())
}

/// Runs the example, and prints to `out`.
pub(crate) fn run(out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(names(out))
}

async fn names(out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    // The facts, the services that cluster east sees, and the zone that follows from them.
    let mut state = Checked::load([("clusters/east/db.yaml", MANIFESTS)]).map_err(|errors| format!("{errors:?}"))?.state;
    let mut services = Services::new("east".parse()?);
    let mut builder = ZoneBuilder::new(&ZoneConfig::default());
    let changed = services.update(&state, &Change::default());
    builder.update(&services, &changed);

    // Readers get snapshots. Each may keep one for as long as it likes; nobody waits for anybody.
    let (sender, zones) = watch::channel(Arc::clone(builder.zone()));
    let (tell, told) = oneshot::channel();
    tokio::spawn(follow(Arc::clone(builder.zone()), zones, tell));

    let questions = [
        ("db.shop.svc.clusterset.local", RecordType::A),
        ("db-1.east.db.shop.svc.clusterset.local", RecordType::A),
        ("_pg._tcp.db.shop.svc.cluster.local", RecordType::Srv),
        ("6.0.1.10.in-addr.arpa", RecordType::Ptr),
        ("cache.shop.svc.cluster.local", RecordType::A),
    ];
    for (name, rtype) in questions {
        print(out, builder.zone(), name, rtype)?;
    }

    // One endpoint is not ready any more. What the event changed is all that is looked at.
    let mut slice = state.facts().slices.values().next().expect("there is one above").clone();
    slice.endpoints[1].ready = false;
    let change = state.apply(Event::Set(SourceId("manifests".into()), Resource::EndpointSlice(slice)), Now::default());
    let changed = services.update(&state, &change);
    sender.send_replace(Arc::clone(builder.update(&services, &changed)));

    writeln!(out, "\nafter the change:")?;
    for line in told.await? {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Waits for a zone after `before`, and tells which services' names mean something else in it.
async fn follow(before: Arc<Zone>, mut zones: watch::Receiver<Arc<Zone>>, tell: oneshot::Sender<Vec<String>>) {
    let newer = zones.wait_for(|zone| !Arc::ptr_eq(zone, &before)).await;
    let Ok(now) = newer.map(|zone| Arc::clone(&zone)) else { return };
    let changes = now.changes_since(&before).map(|change| {
        let addresses: Vec<String> =
            now.lookup(&change.name, RecordType::A).addresses().map(|address| address.to_string()).collect();
        format!("{} is now {}", change.name, addresses.join(", "))
    });
    // Who asked may have gone.
    let _ = tell.send(changes.collect());
}

fn print(out: &mut impl Write, zone: &Zone, name: &str, rtype: RecordType) -> std::io::Result<()> {
    match zone.lookup(name, rtype) {
        Lookup::Records(records) => {
            for record in records {
                match record {
                    Record::Address(address) => writeln!(out, "{name} is {address}")?,
                    Record::Srv { port, target } => writeln!(out, "{name} is port {port} of {target}")?,
                    Record::Alias(target) | Record::Name(target) => writeln!(out, "{name} is {target}")?,
                    Record::Text(text) => writeln!(out, "{name} is \"{text}\"")?,
                }
            }
            Ok(())
        }
        Lookup::NoData => writeln!(out, "{name} has no such record"),
        Lookup::NoName => writeln!(out, "{name} does not exist"),
        Lookup::Outside => writeln!(out, "{name} is for somebody else to say"),
    }
}
