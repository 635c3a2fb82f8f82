//! Keeping a zone in step with the services, at the cost of what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{NamespaceName, ServiceId, Services};

use super::entry::{self, Entry};
use super::reverse::Owners;
use super::{Area, Table, Zone, ZoneConfig};

/// Makes a [`Zone`] and keeps it in step with a view of the services.
///
/// The zone is a snapshot: who holds it keeps it as it is. An update copies the way to what is different and shares the rest, so
/// that it costs what changed, and two zones of one builder are compared at that cost as well ([`Zone::changes_since`]).
///
/// ```
/// use mesh_core::{Change, Event, Now, Resource, Services, SourceId, manifest::Checked};
/// use mesh_discovery::{Lookup, RecordType, ZoneBuilder, ZoneConfig};
///
/// let web = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: prod}, spec: {clusterIP: 10.96.0.1, ports: []}}";
/// let mut state = Checked::load([("clusters/east/web.yaml", web)]).expect("correct manifests").state;
/// let mut services = Services::new("east".parse().expect("a name"));
/// let mut builder = ZoneBuilder::new(&ZoneConfig::default());
///
/// let changed = services.update(&state, &Change::default());
/// let before = builder.update(&services, &changed).clone();
/// let web = "web.prod.svc.cluster.local";
/// assert_eq!(before.lookup(web, RecordType::A).addresses().collect::<Vec<_>>(), ["10.96.0.1".parse::<std::net::IpAddr>().expect("valid")]);
///
/// let (cluster, id) = state.facts().services.keys().next().expect("one service").clone();
/// let mut service = state.facts().services[&(cluster, id)].clone();
/// service.addresses = vec!["10.96.0.2".parse().expect("valid")];
/// let change = state.apply(Event::Set(SourceId("manifests".into()), Resource::Service(service)), Now::default());
/// let changed = services.update(&state, &change);
/// let after = builder.update(&services, &changed);
/// assert_ne!(after.lookup(web, RecordType::A), before.lookup(web, RecordType::A));
/// assert_eq!(after.changes_since(&before).map(|change| change.service.to_string()).collect::<Vec<_>>(), ["prod/web"]);
/// ```
#[derive(Debug)]
pub struct ZoneBuilder {
    zone: Arc<Zone>,
    /// Nothing was read yet.
    is_new: bool,
}

/// What happens to the names of an address: those that go, and those that come.
type Moves = BTreeMap<IpAddr, [Vec<(Area, Box<[u8]>)>; 2]>;

impl ZoneBuilder {
    /// Makes a builder whose zone has no service yet.
    pub fn new(config: &ZoneConfig) -> ZoneBuilder {
        ZoneBuilder { zone: Arc::new(Zone::empty(config)), is_new: true }
    }

    /// Returns the zone of the last update.
    pub fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    pub(super) fn into_zone(self) -> Arc<Zone> {
        self.zone
    }

    /// Brings the zone in step with `services`, of which `changed` are different since the last time. The first time all are read.
    pub fn update(&mut self, services: &Services, changed: &BTreeSet<ServiceId>) -> &Arc<Zone> {
        let is_new = std::mem::take(&mut self.is_new);
        if !is_new && changed.is_empty() {
            return &self.zone;
        }
        // Where a reader still has the last zone, this clones what leads to everything, not the things themselves.
        let zone = Arc::make_mut(&mut self.zone);
        let mut moves = Moves::new();
        if is_new {
            let all: BTreeSet<&ServiceId> = services.local().keys().chain(services.imported().keys()).collect();
            all.into_iter().for_each(|id| zone.set_service(services, id, &mut moves));
        } else {
            changed.iter().for_each(|id| zone.set_service(services, id, &mut moves));
        }
        for (address, [without, with]) in moves {
            let hash = zone.hasher.hash_one(address);
            let is = |(known, _): &(IpAddr, Owners)| *known == address;
            let owners = Owners::edit(zone.reverse.get(hash, is).map(|(_, owners)| owners), &without, &with);
            zone.reverse.set(hash, is, owners.map(|owners| (address, owners)));
        }
        &self.zone
    }
}

impl Zone {
    fn set_service(&mut self, services: &Services, id: &ServiceId, moves: &mut Moves) {
        let Some(stem) = entry::stem(id) else { return };
        let [cluster, clusterset] = [Area::Cluster, Area::Clusterset].map(|area| self.apex(area).name.as_slice().len());
        let local = services.local().get(id).and_then(|local| Entry::local(local, cluster, self.hasher));
        let imported = services.imported().get(id).and_then(|imported| Entry::imported(imported, clusterset, self.hasher));
        let hashes = [self.hasher.hash_one(&*stem), self.hasher.hash_one(id.namespace.as_str().as_bytes())];
        for (area, entry) in [(Area::Cluster, local), (Area::Clusterset, imported)] {
            let table = if area == Area::Cluster { &mut self.cluster } else { &mut self.clusterset };
            let before = table.set(hashes, &stem, id, entry.map(Arc::new));
            let after = table.services.get(hashes[0], |entry| entry.stem() == &*stem);
            if before.as_ref().zip(after).is_none_or(|(before, after)| !after.says_the_same(before)) {
                let sides = [(before.as_deref(), after.map(Arc::as_ref)), (after.map(Arc::as_ref), before.as_deref())];
                for (side, (own, other)) in sides.into_iter().enumerate() {
                    for (address, name) in own.map(|own| own.owned_beyond(other)).unwrap_or_default() {
                        moves.entry(address).or_default()[side].push((area, name));
                    }
                }
            }
        }
    }
}

impl Table {
    /// Makes `entry` the one of a service; returns the one before. `hashes` are those of the stem and of the namespace's name.
    fn set(&mut self, hashes: [u64; 2], stem: &[u8], id: &ServiceId, entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        let is = |entry: &Arc<Entry>| entry.stem() == stem;
        let before = self.services.get(hashes[0], is).cloned();
        if before.is_some() != entry.is_some() {
            let is = |(known, _): &(NamespaceName, u32)| *known == id.namespace;
            let count = self.namespaces.get(hashes[1], is).map_or(0, |(_, count)| *count);
            let count = if entry.is_some() { count + 1 } else { count - 1 };
            self.namespaces.set(hashes[1], is, (count > 0).then(|| (id.namespace.clone(), count)));
        }
        self.services.set(hashes[0], is, entry);
        before
    }
}
