//! The policy in front of the device and behind it, as the node's netfilter has it.

use std::sync::Arc;

use mesh_dataplane::{Local, TunnelError};
use mesh_policy::{Compiler, PolicySet};

use crate::policy::{PolicyError, PolicyRules};

/// What the device's packets are decided by.
#[derive(Debug)]
pub(super) struct Police {
    rules: PolicyRules,
    device: String,
    policy: Option<Arc<PolicySet>>,
    local: Option<Local>,
    /// The table of an agent before is in force. It stays until it is known what is local: without that nothing may pass, and
    /// connections that exist would break for no reason.
    left: bool,
}

impl Police {
    /// Opens the calling thread's network namespace, and lets nothing through the device; but where the device is one that an agent
    /// before `has_left`, its table still says what may pass.
    pub(super) fn open(device: &str, has_left: bool) -> Result<Police, PolicyError> {
        let mut rules = PolicyRules::open()?;
        let left = has_left && rules.fingerprint()?.is_some();
        let mut police = Police { rules, device: device.to_owned(), policy: None, local: None, left };
        if !left {
            police.program(None, None)?;
        }
        Ok(police)
    }

    /// Replaces the policy.
    pub(super) fn set_policy(&mut self, what: &str, policy: &Arc<PolicySet>) -> Result<(), TunnelError> {
        if !self.left {
            self.program(Some(policy), self.local.clone().as_ref()).map_err(|error| failed(what, error))?;
        }
        self.policy = Some(policy.clone());
        Ok(())
    }

    /// Replaces what is local.
    pub(super) fn set_local(&mut self, what: &str, local: &Local) -> Result<(), TunnelError> {
        if let Some(policy) = self.policy.clone() {
            self.left = false;
            self.program(Some(&policy), Some(local)).map_err(|error| failed(what, error))?;
        }
        self.local = Some(local.clone());
        Ok(())
    }

    /// Returns the fingerprint of the policy in force, where it is this process's.
    pub(super) fn fingerprint(&mut self) -> Result<Option<u64>, TunnelError> {
        let is_in_force = !self.left && self.rules.is_in_force().map_err(|error| failed("read the policy", error))?;
        Ok(self.policy.as_ref().filter(|_| is_in_force).map(|policy| policy.fingerprint()))
    }

    /// Puts back what somebody has removed: without the table everything would pass.
    pub(super) fn restore(&mut self) -> Result<(), PolicyError> {
        let is_there = if self.left { self.rules.fingerprint()?.is_some() } else { self.rules.is_in_force()? };
        if is_there {
            return Ok(());
        }
        tracing::warn!("the policy's nftables table was changed by somebody, and is written again");
        self.left = false;
        self.program(self.policy.clone().as_ref(), self.local.clone().as_ref())
    }

    fn program(&mut self, policy: Option<&Arc<PolicySet>>, local: Option<&Local>) -> Result<(), PolicyError> {
        match policy {
            Some(policy) => self.rules.set(policy, local, &self.device),
            None => self.rules.set(Compiler::new().current(), None, &self.device),
        }
    }
}

pub(super) fn failed(what: &str, error: PolicyError) -> TunnelError {
    match error {
        PolicyError::ForeignTable(_) => TunnelError::refused(what, error),
        PolicyError::Netlink(error) => crate::host::failed(what, error),
    }
}
