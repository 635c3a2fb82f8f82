//! The plain TUN device, by the crate `tun-tap`: one packet for each system call, no offloads.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use tun_tap::{Iface, Mode};

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name is longer than Linux allows, or empty.
    #[error("'{0}' is not a device name: 1 to 15 characters")]
    Name(String),
    /// The kernel has no TUN, or the container has no device node.
    #[error("/dev/net/tun is missing: load the module 'tun', or give the container the device")]
    Missing,
    /// The process may not make network devices.
    #[error("no permission to make the TUN device '{0}': CAP_NET_ADMIN and write access to /dev/net/tun are needed")]
    Permission(String),
    /// Another process has the device.
    #[error("the device '{0}' is in use: is another agent running?")]
    Busy(String),
    /// Something else.
    #[error("TUN device '{name}': {source}")]
    Failed {
        /// The device.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An open TUN device: packets without any header before them. It disappears when this is dropped.
#[derive(Debug)]
pub struct Tun(Iface);

impl Tun {
    /// Makes the device, in the calling thread's network namespace. It is down and has no address yet.
    pub fn open(name: &str) -> Result<Tun, TunError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(TunError::Name(name.into()));
        }
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::Missing,
            Some(libc::EPERM | libc::EACCES) => TunError::Permission(name.into()),
            Some(libc::EBUSY) => TunError::Busy(name.into()),
            _ => TunError::Failed { name: name.into(), source },
        };
        let device = Iface::without_packet_info(name, Mode::Tun).map_err(failed)?;
        device.set_non_blocking().map_err(failed)?;
        Ok(Tun(device))
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Reads a packet that the kernel routed to the device; `WouldBlock` where there is none.
    pub fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.0.recv(packet)
    }

    /// Gives the kernel a packet, as if it had come in by the device.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).map(drop)
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_linux_does_not_allow_are_refused_before_the_kernel_is_asked() {
        for name in ["", "sixteen-letters-", "a-much-too-long-device-name"] {
            assert!(matches!(Tun::open(name), Err(TunError::Name(_))), "{name}");
        }
    }
}
