//! The settings of a zone.

use domain::base::Ttl;

use crate::name::{self, DnsName};

/// How the zones are called and how long answers may be kept.
#[derive(Clone, Debug)]
pub struct ZoneConfig {
    pub(super) cluster: DnsName,
    pub(super) clusterset: DnsName,
    pub(super) ttl: Ttl,
}

/// Why two names cannot be the zones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneConfigError {
    /// Not a DNS name, or so long that no service would fit below it.
    #[error("'{name}' is not a DNS name of at most 100 characters")]
    Name {
        /// The refused text.
        name: String,
    },
    /// Both zones have one name.
    #[error("the cluster's zone and the fleet's zone are both '{name}': they must differ")]
    Same {
        /// The name of both.
        name: String,
    },
    /// One zone lies where the services of the other have their names.
    #[error("the zone '{inner}' lies among the services of the zone '{outer}'")]
    Among {
        /// The zone inside.
        inner: String,
        /// The zone around it.
        outer: String,
    },
}

impl ZoneConfig {
    /// Makes the configuration of the two zones, with a TTL of 5 seconds.
    pub fn new(cluster_zone: &str, clusterset_zone: &str) -> Result<ZoneConfig, ZoneConfigError> {
        let parse = |name: &str| {
            let parsed = name::parse(name).filter(|parsed| parsed.len() <= 102 && !parsed.is_root());
            parsed.ok_or_else(|| ZoneConfigError::Name { name: name.chars().take(120).collect() })
        };
        let (cluster, clusterset) = (parse(cluster_zone)?, parse(clusterset_zone)?);
        if cluster == clusterset {
            return Err(ZoneConfigError::Same { name: cluster.to_string() });
        }
        for (inner, outer) in [(&cluster, &clusterset), (&clusterset, &cluster)] {
            if name::join(&["svc"], outer).is_some_and(|services| inner.ends_with(&services)) {
                return Err(ZoneConfigError::Among { inner: inner.to_string(), outer: outer.to_string() });
            }
        }
        Ok(ZoneConfig { cluster, clusterset, ttl: Ttl::from_secs(5) })
    }

    /// Returns the configuration with answers that may be kept for `seconds`, at most an hour.
    #[must_use]
    pub fn with_ttl(mut self, seconds: u32) -> ZoneConfig {
        self.ttl = Ttl::from_secs(seconds.min(3600));
        self
    }
}

impl Default for ZoneConfig {
    /// Returns `cluster.local` and `clusterset.local`, with a TTL of 5 seconds.
    fn default() -> ZoneConfig {
        ZoneConfig::new("cluster.local", "clusterset.local").expect("the default zones are two DNS names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_two_different_names() {
        assert!(ZoneConfig::new("east.example.org.", "example.org").is_ok());
        assert!(matches!(ZoneConfig::new("a.b", "A.B."), Err(ZoneConfigError::Same { .. })));
        assert!(matches!(ZoneConfig::new("local", "fleet.svc.local"), Err(ZoneConfigError::Among { .. })));
        assert!(matches!(ZoneConfig::new("svc.local", "local"), Err(ZoneConfigError::Among { .. })));
        for bad in ["", ".", "a..b", &"a.".repeat(60)] {
            assert!(matches!(ZoneConfig::new(bad, "a"), Err(ZoneConfigError::Name { .. })), "{bad}");
        }
    }
}
