//! The TUN device: with offload where the kernel has it, else the plain one of the crate `tun-tap`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use tun_tap::{Iface, Mode};

use crate::batch::Packets;
use crate::offload::{HEADER_LEN, Header, Merger, split};
use crate::sys;

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

/// An open TUN device. It disappears when this is dropped.
#[derive(Debug)]
pub struct Tun {
    name: String,
    device: Device,
}

#[derive(Debug)]
enum Device {
    /// By the crate `tun-tap`: one packet for each system call, without any header before it.
    Plain(Iface),
    /// With headers: super-packets both ways, checksums left to do.
    Offloading(Box<Offloading>),
}

#[derive(Debug)]
struct Offloading {
    file: File,
    /// A header, and the longest packet that there is.
    buffer: Vec<u8>,
    merger: Merger,
}

/// What came of reading a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Reads that failed, and packets that made no sense.
    pub errors: u64,
    /// The device was taken away.
    pub gone: bool,
}

impl Tun {
    /// Makes the device, in the calling thread's network namespace: with offload where the kernel has it. It is down and has no
    /// address yet.
    pub fn open(name: &str) -> Result<Tun, TunError> {
        check(name)?;
        match sys::open_offloading_tun(name) {
            Ok(file) => {
                let offloading =
                    Offloading { file, buffer: vec![0; HEADER_LEN + usize::from(u16::MAX) + 1], merger: Merger::new() };
                Ok(Tun { name: name.into(), device: Device::Offloading(Box::new(offloading)) })
            }
            // The plain device knows best what is wrong.
            Err(error) => {
                tracing::debug!(%error, device = name, "no TUN device with offload, taking a plain one");
                Tun::open_plain(name)
            }
        }
    }

    /// Makes the device without offload.
    pub fn open_plain(name: &str) -> Result<Tun, TunError> {
        check(name)?;
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::Missing,
            Some(libc::EPERM | libc::EACCES) => TunError::Permission(name.into()),
            Some(libc::EBUSY) => TunError::Busy(name.into()),
            _ => TunError::Failed { name: name.into(), source },
        };
        let device = Iface::without_packet_info(name, Mode::Tun).map_err(failed)?;
        device.set_non_blocking().map_err(failed)?;
        Ok(Tun { name: device.name().into(), device: Device::Plain(device) })
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells whether the device takes and gives super-packets.
    pub fn is_offloading(&self) -> bool {
        matches!(self.device, Device::Offloading(_))
    }

    /// Reads the packets that the kernel routed to the device until there is none, or `enough` of them: a super-packet more than
    /// that at most. Packets are no longer than `mtu`; one byte more shows the contrary.
    pub fn receive(&mut self, packets: &mut Packets, enough: usize, mtu: usize) -> Received {
        let mut received = Received::default();
        while packets.len() < enough {
            let result = match &mut self.device {
                Device::Plain(device) => device.recv(&mut packets.spare(mtu + 1)[..=mtu]).map(|len| packets.commit(len)),
                Device::Offloading(device) => device.read(packets, &mut received),
            };
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                    received.gone = true;
                    break;
                }
                Err(_) => {
                    received.errors += 1;
                    break;
                }
            }
        }
        received
    }

    /// Gives the kernel packets, as if they had come in by the device; returns how many writes it refused.
    pub fn send(&mut self, packets: &Packets) -> u64 {
        match &mut self.device {
            Device::Plain(device) => packets.iter().filter(|packet| device.send(packet).is_err()).count() as u64,
            Device::Offloading(device) => {
                let (mut errors, Offloading { file, merger, .. }) = (0, &mut **device);
                merger.merge(packets, |slices| errors += u64::from(file.write_vectored(slices).is_err()));
                errors
            }
        }
    }
}

impl Offloading {
    fn read(&mut self, packets: &mut Packets, received: &mut Received) -> io::Result<()> {
        let len = self.file.read(&mut self.buffer)?;
        let (header, packet) = self.buffer[..len].split_first_chunk::<HEADER_LEN>().ok_or(io::ErrorKind::InvalidData)?;
        let done = Header::read(header).and_then(|header| split(&header, packet, packets));
        received.errors += u64::from(done.is_err());
        Ok(())
    }
}

fn check(name: &str) -> Result<(), TunError> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ { Err(TunError::Name(name.into())) } else { Ok(()) }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        match &self.device {
            Device::Plain(device) => device.as_raw_fd(),
            Device::Offloading(device) => device.file.as_raw_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_linux_does_not_allow_are_refused_before_the_kernel_is_asked() {
        for name in ["", "sixteen-letters-", "a-much-too-long-device-name"] {
            assert!(matches!(Tun::open(name), Err(TunError::Name(_))), "{name}");
            assert!(matches!(Tun::open_plain(name), Err(TunError::Name(_))), "{name}");
        }
    }
}
