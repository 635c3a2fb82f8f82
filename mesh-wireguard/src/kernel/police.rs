//! The policy in front of the device and behind it. **Nothing is policed yet**: the policy is remembered, and not in the kernel.

use std::sync::Arc;

use mesh_dataplane::{Local, TunnelError};
use mesh_policy::PolicySet;

/// What the device's packets are decided by.
#[derive(Debug, Default)]
pub(super) struct Police {
    policy: Option<u64>,
}

impl Police {
    /// Replaces the policy.
    pub(super) fn set_policy(&mut self, policy: &Arc<PolicySet>, _device: &str) -> Result<(), TunnelError> {
        self.policy = Some(policy.fingerprint());
        Ok(())
    }

    /// Replaces what is local.
    pub(super) fn set_local(&mut self, _local: &Local, _device: &str) -> Result<(), TunnelError> {
        Ok(())
    }

    /// Returns the fingerprint of the policy in force.
    pub(super) fn fingerprint(&mut self) -> Result<Option<u64>, TunnelError> {
        Ok(self.policy)
    }
}
