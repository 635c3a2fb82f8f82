//! What names mean: told to the DNS server as soon as it is known, before anything else is derived.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::{Change, ServiceId, Services, State};
use mesh_discovery::{Zone, ZoneBuilder, ZoneConfig};
use tokio::sync::watch;

/// Keeps the zone in step with the services.
#[derive(Debug)]
pub struct NamesRole {
    builder: ZoneBuilder,
    zone: watch::Sender<Arc<Zone>>,
    /// What events changed since the services were looked at; `None` before the first time.
    told: Option<Change>,
    /// The services that are different since somebody asked.
    changed: BTreeSet<ServiceId>,
}

impl NamesRole {
    /// Begins with a zone without services; returns where the zones come from.
    pub fn start(config: &ZoneConfig) -> (NamesRole, watch::Receiver<Arc<Zone>>) {
        let builder = ZoneBuilder::new(config);
        let (zone, zones) = watch::channel(builder.zone().clone());
        (NamesRole { builder, zone, told: None, changed: BTreeSet::new() }, zones)
    }

    /// Takes note of what an event changed.
    pub fn note(&mut self, change: &Change) {
        if let Some(told) = &mut self.told {
            told.dirty.extend(change.dirty.iter().cloned());
        }
    }

    /// Brings `services` up to date, and hands on the zone where a service is different; the first time, in any case. Tells
    /// whether it did.
    pub fn publish(&mut self, state: &State, services: &mut Services) -> bool {
        let is_first = self.told.is_none();
        let told = self.told.replace(Change::default()).unwrap_or_default();
        if told.dirty.is_empty() && !is_first {
            return false;
        }
        let changed = services.update(state, &told);
        if changed.is_empty() && !is_first {
            return false;
        }
        self.zone.send_replace(self.builder.update(services, &changed).clone());
        self.changed.extend(changed);
        true
    }

    /// Returns the services that are different since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<ServiceId> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use mesh_core::{
        ClusterName, Endpoint, EndpointPort, EndpointSlice, Event, Now, Protocol, Resource, Service, ServiceKind, ServicePort,
        Settings, SourceId, StateConfig, Traffic, Trust,
    };
    use mesh_discovery::RecordType;

    use super::*;

    const SERVICES: u32 = 10_000;

    fn slice(cluster: &ClusterName, number: u32, last: u32) -> Resource {
        let port = EndpointPort { name: Some("http".into()), protocol: Protocol::Tcp, port: Some(8080) };
        let endpoint = |host: u32| Endpoint {
            addresses: vec![IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number * 16 + host))],
            ready: true,
            terminating: false,
            hostname: Some(format!("web-{host}").into()),
            node: None,
            ports: vec![port.clone()],
        };
        Resource::EndpointSlice(EndpointSlice {
            cluster: cluster.clone(),
            name: format!("svc-{number}").parse().expect("a name"),
            service: format!("shop/svc-{number}").parse().expect("a service"),
            endpoints: (0..9).chain([last]).map(endpoint).collect(),
        })
    }

    fn service(cluster: &ClusterName, number: u32) -> Resource {
        Resource::Service(Service {
            cluster: cluster.clone(),
            id: format!("shop/svc-{number}").parse().expect("a service"),
            kind: ServiceKind::Headless,
            addresses: Vec::new(),
            ports: vec![ServicePort { name: Some("http".into()), protocol: Protocol::Tcp, port: 80, app_protocol: None }],
            affinity: Default::default(),
            traffic: Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        })
    }

    /// From the event to a reader in another task, on 10,000 services of 10 endpoints; the time is printed, not judged.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_is_in_the_answers_at_once() {
        let cluster: ClusterName = "east".parse().expect("a name");
        let config =
            StateConfig { fleet: "f".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
        let (mut state, source) = (State::new(config), SourceId("manifests".into()));
        let (mut names, mut zones) = NamesRole::start(&ZoneConfig::default());
        let mut services = Services::new(cluster.clone());
        for number in 0..SERVICES {
            for resource in [service(&cluster, number), slice(&cluster, number, 9)] {
                names.note(&state.apply(Event::Set(source.clone(), resource), Now::default()));
            }
        }
        assert!(names.publish(&state, &mut services));
        assert_eq!(names.take_changed().len(), SERVICES as usize);
        assert_eq!(zones.borrow_and_update().len(), (SERVICES as usize, 0));
        let mut times = Vec::new();
        for round in 0..100u32 {
            let number = round * 97 % SERVICES;
            let (name, last) = (format!("web-{}.svc-{number}.shop.svc.cluster.local", 10 + round % 5), 10 + round % 5);
            let mut reader = zones.clone();
            let seen = tokio::spawn(async move {
                let wait = reader.wait_for(|zone| zone.lookup(&name, RecordType::A).addresses().count() == 1);
                tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the name appears").expect("the role is there");
                Instant::now()
            });
            let begin = Instant::now();
            names.note(&state.apply(Event::Set(source.clone(), slice(&cluster, number, last)), Now::default()));
            assert!(names.publish(&state, &mut services));
            times.push(seen.await.expect("the reader ends").duration_since(begin));
            assert_eq!(names.take_changed().len(), 1);
        }
        times.sort_unstable();
        println!("from the event to the answer: median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
}
