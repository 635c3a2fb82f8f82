//! The demo: a story in steps, each with what was done, what was seen, and whether that is right.

use std::time::{Duration, Instant};

use mesh_core::{Direction, FlowEvent, FlowRecord, WorkloadId};
use mesh_lab::probe::{ProbeFailure, ProbeResult};
use mesh_lab::{Capture, CaptureReport};

use super::fleet::{Fleet, FleetError};
use super::{Cancel, Cancelled};

/// How long something may take to become so: generous, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a request waits for an answer before it counts as dropped.
const DROPPED: Duration = Duration::from_millis(1500);

/// Why the story broke off.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Cancelled(#[from] Cancelled),
    /// The lab does not do as it is told.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A manifest of the demo is not as the story needs it.
    #[error("{0}")]
    Manifest(String),
}

/// Tells the story in `fleet`; returns how many steps went wrong.
pub fn tell(fleet: &mut Fleet, capture: Capture, cancel: &Cancel) -> Result<usize, StoryError> {
    let mut story = Story { fleet, cancel, step: 0, failures: 0 };
    story.names()?;
    story.crossing()?;
    story.denied()?;
    story.not_exported()?;
    story.exported()?;
    story.moved()?;
    story.edited()?;
    story.flows()?;
    story.underlay(capture)?;
    Ok(story.failures)
}

struct Story<'a> {
    fleet: &'a mut Fleet,
    cancel: &'a Cancel,
    step: usize,
    failures: usize,
}

const WEB: &str = "east/shop/web-0";
const OUTSIDER: &str = "east/guest/outsider-0";
const REPORT: &str = "west/shop/report-0";
const DB_URL: &str = "http://db.shop.svc.clusterset.local:5432/";
const CART_URL: &str = "http://cart.shop.svc.clusterset.local:8080/";

fn id(text: &str) -> WorkloadId {
    text.parse().expect("the story's names are valid")
}

impl Story<'_> {
    fn begin(&mut self, title: &str) -> Result<(), StoryError> {
        self.cancel.check()?;
        self.step += 1;
        println!("\n{}. {title}", self.step);
        Ok(())
    }

    fn see(&mut self, right: bool, what: &str) {
        println!("   {} {what}", if right { "ok  " } else { "FAIL" });
        if !right {
            self.failures += 1;
        }
    }

    fn fetch(&self, from: &str, url: &str, timeout: Duration) -> Result<ProbeResult, StoryError> {
        self.cancel.check()?;
        Ok(self.fleet.probe(&id(from), url, timeout)?)
    }

    /// Repeats a request until it `is_right` or patience ends; returns the last result and how long after the start it was
    /// answered, or begun where nobody answered it.
    fn fetch_until(
        &self,
        from: &str,
        url: &str,
        is_right: impl Fn(&ProbeResult) -> bool,
    ) -> Result<(ProbeResult, Duration), StoryError> {
        let start = Instant::now();
        loop {
            let begun = start.elapsed();
            let result = self.fetch(from, url, DROPPED)?;
            if is_right(&result) || start.elapsed() > PATIENCE {
                let after = if dropped(&result) { begun } else { start.elapsed() };
                return Ok((result, after));
            }
            self.cancel.pause(Duration::from_millis(50))?;
        }
    }

    /// Waits for the latest flow record between two workloads that is as wanted.
    fn flow(&self, from: &str, to: &str, is_right: impl Fn(&FlowRecord) -> bool) -> Result<Option<FlowRecord>, StoryError> {
        let start = Instant::now();
        loop {
            let between = |record: &FlowRecord| {
                record.source.workload.as_ref() == Some(&id(from)) && record.destination.workload.as_ref() == Some(&id(to))
            };
            let records = self.fleet.flows()?;
            let found = records.into_iter().filter(|record| between(record) && is_right(record)).max_by_key(|record| record.last);
            if found.is_some() || start.elapsed() > PATIENCE {
                return Ok(found);
            }
            self.cancel.pause(Duration::from_millis(50))?;
        }
    }

    fn see_flow(&mut self, record: Option<&FlowRecord>, tier_or_rule: &str) {
        match record {
            None => self.see(false, "no such flow on record"),
            Some(record) => {
                let by = record.rule.clone().unwrap_or_else(|| record.reason.clone());
                let right = by == tier_or_rule;
                let verdict = if record.allowed { "allowed" } else { "denied" };
                let line =
                    format!("on record at {}: {verdict} on {} by {by} (tier {})", record.node, record.direction, record.tier);
                self.see(right, &line);
            }
        }
    }

    fn names(&mut self) -> Result<(), StoryError> {
        self.begin("Names resolve by native DNS in both clusters")?;
        for (from, url) in [(WEB, DB_URL), (REPORT, DB_URL), (REPORT, "http://db.shop.svc.cluster.local:5432/")] {
            let (result, _) = self.fetch_until(from, url, |result| !result.resolved.is_empty())?;
            let addresses: Vec<_> = result.resolved.iter().map(|address| address.ip().to_string()).collect();
            let host = url.trim_start_matches("http://").split(':').next().unwrap_or_default();
            self.see(!addresses.is_empty(), &format!("{from}: {host} is {}", addresses.join(", ")));
        }
        Ok(())
    }

    fn crossing(&mut self) -> Result<(), StoryError> {
        self.begin("A request crosses clusters, and the server sees who called")?;
        let own = self.fleet.addresses(&id(WEB));
        for url in [DB_URL.to_owned(), format!("http://{}:5432/", self.fleet.addresses(&id("west/shop/db-0"))[0])] {
            let (result, _) = self.fetch_until(WEB, &url, ProbeResult::is_ok)?;
            let client = result.field("client").unwrap_or_default();
            let kept = own.iter().any(|address| client.contains(&address.to_string()));
            let seen = if result.is_ok() {
                format!("{} saw {client}", result.field("server").unwrap_or_default())
            } else {
                failure(&result)
            };
            self.see(result.is_ok() && kept, &format!("{WEB} fetched {url} in {} ms: {seen}", result.elapsed_ms));
        }
        let egress = self.flow(WEB, "west/shop/db-0", |record| record.allowed && record.direction == Direction::Egress)?;
        self.see_flow(egress.as_ref(), "fleet-default");
        let ingress = self.flow(WEB, "west/shop/db-0", |record| record.allowed && record.direction == Direction::Ingress)?;
        self.see_flow(ingress.as_ref(), "west/NetworkPolicy/shop/db-in/ingress[0]");
        Ok(())
    }

    fn denied(&mut self) -> Result<(), StoryError> {
        self.begin("A denied request, and the rule that denied it")?;
        let result = self.fetch(OUTSIDER, DB_URL, DROPPED)?;
        self.see(dropped(&result), &format!("{OUTSIDER} asked {DB_URL}: {}", failure(&result)));
        let denied = self.flow(OUTSIDER, "west/shop/db-0", |record| !record.allowed)?;
        self.see_flow(denied.as_ref(), "west/ClusterNetworkPolicy/guests-stay-out/ingress[0]");
        Ok(())
    }

    fn not_exported(&mut self) -> Result<(), StoryError> {
        self.begin("Joining a fleet opens no path: what is not exported is not reachable")?;
        let url = format!("http://{}:8080/", self.fleet.addresses(&id(REPORT))[0]);
        let result = self.fetch(WEB, &url, DROPPED)?;
        self.see(dropped(&result), &format!("{WEB} asked {REPORT} at {url}: {}", failure(&result)));
        let denied = self.flow(WEB, REPORT, |record| !record.allowed)?;
        self.see_flow(denied.as_ref(), "not-exported");
        Ok(())
    }

    fn exported(&mut self) -> Result<(), StoryError> {
        self.begin("A service is published to the fleet by adding one manifest")?;
        let before = self.fetch(REPORT, CART_URL, DROPPED)?;
        let unknown = before.failure == Some(ProbeFailure::NameNotFound);
        self.see(unknown, &format!("{REPORT} asked {CART_URL}: {}", failure(&before)));
        println!("        added clusters/east/cart-export.yaml (ServiceExport shop/cart)");
        self.fleet.write_manifest("east", "cart-export.yaml", CART_EXPORT)?;
        let (result, took) = self.fetch_until(REPORT, CART_URL, ProbeResult::is_ok)?;
        let served = result.field("server").unwrap_or_else(|| failure(&result));
        self.see(result.is_ok(), &format!("{REPORT} reached {served} {} ms later", took.as_millis()));
        Ok(())
    }

    fn moved(&mut self) -> Result<(), StoryError> {
        self.begin("A workload moves to the other cluster, and the fleet's policy goes with it")?;
        let before = self.fetch(OUTSIDER, CART_URL, DROPPED)?;
        self.see(dropped(&before), &format!("{OUTSIDER} asked cart in east: {}", failure(&before)));
        let denied = self.flow(OUTSIDER, "east/shop/cart-0", |record| !record.allowed)?;
        self.see_flow(denied.as_ref(), "east/ClusterNetworkPolicy/guests-stay-out/ingress[0]");
        println!("        moved shop/cart-0, its service and its export from east to west: manifests only");
        for file in ["cart-0.yaml", "cart-service.yaml", "cart-export.yaml"] {
            let text = self.fleet.read_manifest("east", file)?;
            self.fleet.write_manifest("west", file, &to_west(&text))?;
            self.fleet.remove_manifest("east", file)?;
        }
        self.fleet.sync_workloads()?;
        let in_west = |result: &ProbeResult| result.field("server").is_some_and(|server| server.starts_with("west/"));
        let (result, took) = self.fetch_until(WEB, CART_URL, in_west)?;
        let served = result.field("server").unwrap_or_else(|| failure(&result));
        self.see(in_west(&result), &format!("{WEB} reached {served} {} ms later, by the same name", took.as_millis()));
        let after = self.fetch(OUTSIDER, CART_URL, DROPPED)?;
        self.see(dropped(&after), &format!("{OUTSIDER} asked cart in west: {}", failure(&after)));
        let denied = self.flow(OUTSIDER, "west/shop/cart-0", |record| !record.allowed)?;
        self.see_flow(denied.as_ref(), "west/ClusterNetworkPolicy/guests-stay-out/ingress[0]");
        Ok(())
    }

    fn edited(&mut self) -> Result<(), StoryError> {
        self.begin("A manifest is edited, and the verdict changes")?;
        let original = self.fleet.read_manifest("west", "db-in.yaml")?;
        let edited = original.replace("matchLabels: {app: web}", "matchLabels: {app: report}");
        if edited == original {
            return Err(StoryError::Manifest("db-in.yaml has no rule for web any more".into()));
        }
        println!("        db-in.yaml: from web to report");
        self.fleet.write_manifest("west", "db-in.yaml", &edited)?;
        let (result, took) = self.fetch_until(WEB, DB_URL, dropped)?;
        self.see(dropped(&result), &format!("{WEB} asked db {} ms after the edit: {}", took.as_millis(), failure(&result)));
        let denied = self.flow(WEB, "west/shop/db-0", |record| !record.allowed)?;
        self.see_flow(denied.as_ref(), "isolated-by-network-policy");
        println!("        db-in.yaml: back to web");
        self.fleet.write_manifest("west", "db-in.yaml", &original)?;
        let (result, took) = self.fetch_until(WEB, DB_URL, ProbeResult::is_ok)?;
        self.see(result.is_ok(), &format!("{WEB} fetched from db {} ms after the edit", took.as_millis()));
        Ok(())
    }

    fn flows(&mut self) -> Result<(), StoryError> {
        self.begin("Every flow is on record at both ends, with both identities and the same flow id")?;
        let opened = |direction| {
            // A flow that was taken up in the middle has an id without the sequence number of a SYN that nobody saw.
            move |record: &FlowRecord| {
                record.event == FlowEvent::Opened && record.allowed && !record.recovered && record.direction == direction
            }
        };
        let Some(ingress) = self.flow(WEB, "west/shop/db-0", opened(Direction::Ingress))? else {
            self.see(false, "no flow on record at its destination");
            return Ok(());
        };
        let egress = self.flow(WEB, "west/shop/db-0", |record| record.id == ingress.id && opened(Direction::Egress)(record))?;
        let Some(egress) = egress else {
            self.see(false, &format!("flow {} is on record at its destination only", ingress.id));
            return Ok(());
        };
        let identities = [&egress.source.identity, &egress.destination.identity];
        for record in [&egress, &ingress] {
            println!("        {}", crate::cli::agent::describe_flow(record));
        }
        let same = [&ingress.source.identity, &ingress.destination.identity] == identities;
        self.see(same && identities.iter().all(|identity| identity.is_some()), &format!("id {}", egress.id));
        for (end, identity) in [("source", identities[0]), ("destination", identities[1])] {
            println!("        {end} identity {}", identity.as_deref().unwrap_or("unknown"));
        }
        Ok(())
    }

    fn underlay(&mut self, capture: Capture) -> Result<(), StoryError> {
        let report = capture.stop().map_err(FleetError::from)?;
        self.begin(match report.expected {
            0 => "On the underlay there is nothing but WireGuard",
            _ => "On the underlay there is nothing but WireGuard, and TLS to the clusters' etcds",
        })?;
        self.see(clean(&report), &describe_capture(&report));
        for sample in &report.samples {
            println!("        plaintext: {sample}");
        }
        Ok(())
    }
}

const CART_EXPORT: &str = "\
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata:
  name: cart
  namespace: shop
";

/// Rewrites the manifests of east's cart for its new place: node, addresses.
fn to_west(text: &str) -> String {
    text.replace("10.1.2.10", "10.2.2.10").replace("fd00:10:1:2::10", "fd00:10:2:2::10").replace("10.96.1.10", "10.96.2.20")
}

fn dropped(result: &ProbeResult) -> bool {
    result.failure == Some(ProbeFailure::Timeout)
}

fn failure(result: &ProbeResult) -> String {
    match (&result.failure, &result.error) {
        (Some(ProbeFailure::Timeout), _) => "no answer (dropped)".into(),
        (Some(ProbeFailure::NameNotFound), _) => "no such name".into(),
        (Some(kind), Some(error)) => format!("{kind:?}: {error}"),
        (Some(kind), None) => format!("{kind:?}"),
        (None, _) => format!("answered by {}", result.field("server").unwrap_or_default()),
    }
}

fn clean(report: &CaptureReport) -> bool {
    report.is_clean() && report.wireguard > 0
}

fn describe_capture(report: &CaptureReport) -> String {
    let etcd = match report.expected {
        0 => String::new(),
        count => format!("{count} to and from etcd, "),
    };
    format!(
        "{} WireGuard packets ({} handshakes, {} data), {etcd}{} neighbour discovery, {} anything else, {} lost by the capture",
        report.wireguard, report.by_type.initiation, report.by_type.data, report.neighbour, report.other, report.drops,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_demo_ships_what_the_story_rewrites() {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/clusters/");
        let service = fs::read_to_string(format!("{demo}east/cart-service.yaml")).unwrap();
        assert_ne!(to_west(&service), service);
        assert!(!to_west(&service).contains("10.1."));
        assert!(fs::read_to_string(format!("{demo}west/db-in.yaml")).unwrap().contains("matchLabels: {app: web}"));
    }
}
