//! The device: found or made, and kept as it shall be.

use mesh_dataplane::TunnelError;

use super::{KernelStartError, KernelTunnel, unreadable};
use crate::host::sysctl;
use crate::netlink::NetlinkError;
use crate::netlink::route::Link;
use crate::netlink::wireguard::{KIND, Settings};

impl KernelTunnel {
    /// Takes the device of our name and kind, or makes one, gives it key, port and mark, and brings it up. What is as it should be is not touched, so that sessions go on.
    pub(super) fn take_device(&mut self) -> Result<(), KernelStartError> {
        let name = &self.config.device;
        let refused = |error: NetlinkError| match error.errno() {
            Some(libc::EOPNOTSUPP) => KernelStartError::Missing,
            Some(libc::EPERM | libc::EACCES) => KernelStartError::Permission(name.clone()),
            _ => KernelStartError::Netlink(error),
        };
        let link = match self.host.routing.link(name)? {
            Some(link) if link.kind == KIND => link,
            Some(link) => return Err(KernelStartError::Foreign { name: name.clone(), kind: link.kind }),
            None => {
                self.host.routing.add_wireguard(name).map_err(refused)?;
                self.host.routing.link(name)?.ok_or(KernelStartError::Missing)?
            }
        };
        self.device = self.wireguard.device(link.index)?.ok_or(KernelStartError::Missing)?;
        self.set_up(&link)?;
        if self.host.index() != link.index {
            sysctl::prepare(&self.config.device);
            self.host.attach(link.index)?;
        }
        Ok(())
    }

    /// Sets what of the device is not as it should be.
    fn set_up(&mut self, link: &Link) -> Result<(), KernelStartError> {
        let config = &self.config;
        let mark = config.mark.unwrap_or(0);
        let settings = Settings {
            key: Some(&config.key).filter(|key| self.device.key != Some(key.public())),
            port: None,
            mark: Some(mark).filter(|mark| self.device.mark != *mark),
        };
        let in_use = |source| KernelStartError::Port { port: config.port, source };
        let mut changed = false;
        if settings.key.is_some() || settings.mark.is_some() {
            self.wireguard.set_device(link.index, &settings)?;
            changed = true;
        }
        if config.port != 0 && config.port != self.device.port {
            let port = Settings { port: Some(config.port), ..Settings::default() };
            self.wireguard.set_device(link.index, &port).map_err(in_use)?;
            changed = true;
        }
        if !link.is_up || link.mtu != u32::from(config.mtu) {
            self.host.routing.bring_up(link.index, u32::from(config.mtu), None).map_err(|error| match error.errno() {
                // Its sockets are opened now.
                Some(libc::EADDRINUSE) => in_use(error),
                _ => error.into(),
            })?;
            changed = true;
        }
        if changed {
            self.device = self.wireguard.device(link.index)?.ok_or(KernelStartError::Missing)?;
        }
        Ok(())
    }

    /// Makes the device again where it is gone, and puts back what of it belongs to no step.
    pub(super) fn repair(&mut self) -> Result<(), TunnelError> {
        let before = self.host.index();
        self.take_device().map_err(|error| match error {
            KernelStartError::Netlink(error) => unreadable(error),
            KernelStartError::Port { .. } => TunnelError::failed("repair the device", error),
            error => TunnelError::refused("repair the device", error),
        })?;
        if self.host.index() != before {
            tracing::warn!(device = self.config.device, "the device was removed by somebody, and is made again");
            self.host.restore()?;
        }
        Ok(())
    }
}
