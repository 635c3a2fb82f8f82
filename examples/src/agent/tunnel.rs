//! Which of the two tunnels the node has, and why.

use mesh_core::FlowRecord;
use mesh_dataplane::{Actual, Op, Opening, Tunnel, TunnelError, Want};
use mesh_wireguard::{
    Ended, KernelStartError, KernelTunnel, KernelTunnelConfig, NodeKey, TABLE, TunnelStats, UserTunnel, UserTunnelConfig,
};
use tracing::{debug, info, warn};

use super::start::AgentError;
use crate::config::{AgentConfig, InterestConfig, TunnelSetting};

/// What the kernel tunnel cannot do yet that an agent with `interest: narrow` relies on.
const NARROW: &str = "the kernel tunnel does not ask for identities by first packets, as 'interest: narrow' needs it";

/// The node's tunnel.
#[derive(Debug)]
pub enum NodeTunnel {
    /// In this process.
    User(Box<UserTunnel>),
    /// In the kernel.
    Kernel(Box<KernelTunnel>),
}

/// Which tunnel it is, and why that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kernel's, or the one of this process.
    pub kernel: bool,
    /// For people.
    pub reason: String,
}

impl Choice {
    /// Looks at what the calling thread's network namespace has, and chooses.
    ///
    /// # Errors
    /// Returns an error where the setting asks for the kernel tunnel, and the kernel has not what that needs.
    pub fn make(setting: TunnelSetting, interest: InterestConfig) -> Result<Choice, KernelStartError> {
        let is_narrow = interest == InterestConfig::Narrow;
        match setting {
            TunnelSetting::User => Ok(Choice { kernel: false, reason: "as configured".into() }),
            TunnelSetting::Kernel => {
                KernelTunnel::check()?;
                if is_narrow {
                    warn!("{NARROW}: connections of such peers stay closed; 'interest: wide' knows them");
                }
                Ok(Choice { kernel: true, reason: "as configured".into() })
            }
            TunnelSetting::Auto => Ok(match KernelTunnel::check() {
                Err(error) => Choice { kernel: false, reason: error.to_string() },
                Ok(()) if is_narrow => Choice { kernel: false, reason: NARROW.into() },
                Ok(()) => Choice { kernel: true, reason: "the kernel has WireGuard and nftables".into() },
            }),
        }
    }

    /// Returns `kernel` or `user`.
    pub fn name(&self) -> &'static str {
        if self.kernel { "kernel" } else { "user" }
    }
}

impl NodeTunnel {
    /// Chooses and starts.
    pub fn start(config: &AgentConfig, key: NodeKey) -> Result<(NodeTunnel, Choice), AgentError> {
        let choice = Choice::make(config.tunnel, config.interest)?;
        info!(tunnel = choice.name(), setting = %config.tunnel, reason = choice.reason, "chose the tunnel");
        let wireguard = &config.wireguard;
        let (device, mtu, port) = (wireguard.device.clone(), wireguard.mtu, wireguard.port);
        let tunnel = if choice.kernel {
            let config = KernelTunnelConfig { device, mtu, port, key, table: TABLE, mark: None };
            NodeTunnel::Kernel(Box::new(KernelTunnel::start(config)?))
        } else {
            // An agent before may have had the other one, which stays when its agent ends.
            KernelTunnel::remove(&device)?;
            let config = UserTunnelConfig { device, mtu, port, key, table: TABLE, mark: None, offload: true };
            NodeTunnel::User(Box::new(UserTunnel::start(config)?))
        };
        Ok((tunnel, choice))
    }

    /// Returns one reading of all counters.
    ///
    /// # Errors
    /// Returns an error where the tunnel has ended. What cannot be read of the kernel now is left out.
    pub fn stats(&mut self) -> Result<TunnelStats, Ended> {
        match self {
            NodeTunnel::User(tunnel) => tunnel.stats(),
            NodeTunnel::Kernel(tunnel) => Ok(tunnel.stats().unwrap_or_else(|error| {
                debug!(%error, "the kernel's counters cannot be read");
                TunnelStats::default()
            })),
        }
    }

    fn inner(&mut self) -> &mut dyn Tunnel {
        match self {
            NodeTunnel::User(tunnel) => &mut **tunnel,
            NodeTunnel::Kernel(tunnel) => &mut **tunnel,
        }
    }
}

impl Tunnel for NodeTunnel {
    fn observe(&mut self) -> Result<Actual, TunnelError> {
        self.inner().observe()
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<(usize, TunnelError)> {
        self.inner().apply(ops)
    }

    fn poll_flow(&mut self) -> Option<FlowRecord> {
        self.inner().poll_flow()
    }

    fn poll_opening(&mut self) -> Option<Opening> {
        self.inner().poll_opening()
    }

    fn poll_want(&mut self) -> Option<Want> {
        self.inner().poll_want()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_follows_the_setting_and_what_is_there_and_says_why() {
        let found = KernelTunnel::check().map_err(|error| error.to_string());
        let make = |setting, interest| Choice::make(setting, interest).map_err(|error| error.to_string());
        let configured = |kernel| Choice { kernel, reason: "as configured".into() };
        for interest in [InterestConfig::Narrow, InterestConfig::Wide] {
            assert_eq!(make(TunnelSetting::User, interest), Ok(configured(false)));
            assert_eq!(make(TunnelSetting::Kernel, interest), found.clone().map(|()| configured(true)));
        }
        let wide = make(TunnelSetting::Auto, InterestConfig::Wide).unwrap();
        assert_eq!(wide.kernel, found.is_ok());
        assert!(found.is_ok() || found == Err(wide.reason.clone()), "{wide:?}");
        let narrow = make(TunnelSetting::Auto, InterestConfig::Narrow).unwrap();
        assert!(!narrow.kernel && (found.is_ok() == narrow.reason.contains("interest")), "{narrow:?}");
    }
}
