//! An address on the loopback device, for as long as it is needed.
//!
//! There it survives whatever configures the machine's network, and is nobody's fallback device.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::{Answer, Netlink, Request};

/// `lo` has this number in every network namespace.
const LOOPBACK: u32 = 1;
/// `RTM_NEWLINK`, `RTM_NEWADDR`, `RTM_DELADDR`.
const SET_LINK: u16 = 16;
const ADD_ADDRESS: u16 = 20;
const REMOVE_ADDRESS: u16 = 21;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK: u16 = 1 | 4;
/// `NLM_F_CREATE | NLM_F_EXCL`.
const ANEW: u16 = 0x400 | 0x200;
/// `IFF_UP`.
const UP: u32 = 1;
/// `IFA_ADDRESS`, `IFA_LOCAL`.
const ATTRIBUTES: [u16; 2] = [1, 2];

/// The address can't be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't add the address {address} to lo; run as root, or choose an address that is there with --imds-listen"
)]
pub struct LoopbackError {
    /// Which.
    address: Ipv4Addr,
    /// Why.
    #[source]
    source: io::Error,
}

/// An address on the loopback device. Dropping it removes the address, if it wasn't there before.
#[derive(Debug)]
pub struct LoopbackAddress {
    address: Ipv4Addr,
    before: Before,
}

/// Whether the address was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Absent,
    Present,
}

impl LoopbackAddress {
    /// Adds the address, with a prefix of 32 bits, and brings the device up. Needs `CAP_NET_ADMIN`, unless the machine has
    /// the address already, whatever the device.
    pub fn add(address: Ipv4Addr) -> Result<Self, LoopbackError> {
        if is_there(address) {
            let before = Before::Present;
            return Ok(Self { address, before });
        }
        let added =
            bring_up().and_then(
                |()| match route(ADD_ADDRESS, ASK | ANEW, &address_message(address)) {
                    Ok(()) => Ok(Before::Absent),
                    Err(Errno::EEXIST) => Ok(Before::Present),
                    Err(error) => Err(error),
                },
            );
        let before = added.map_err(|error| LoopbackError {
            address,
            source: error.into(),
        })?;
        Ok(Self { address, before })
    }
}

impl Drop for LoopbackAddress {
    fn drop(&mut self) {
        if self.before == Before::Absent
            && let Err(error) = route(REMOVE_ADDRESS, ASK, &address_message(self.address))
        {
            tracing::debug!(address = %self.address, %error, "the address stays on lo");
        }
    }
}

/// Whether the machine has the address: a socket can be bound to it.
fn is_there(address: Ipv4Addr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn bring_up() -> Result<(), Errno> {
    let mut message = [0; 16];
    message[4..8].copy_from_slice(&LOOPBACK.to_ne_bytes());
    message[8..12].copy_from_slice(&UP.to_ne_bytes());
    message[12..].copy_from_slice(&UP.to_ne_bytes());
    route(SET_LINK, ASK, &message)
}

/// `struct ifaddrmsg` and its attributes.
fn address_message(address: Ipv4Addr) -> Vec<u8> {
    let family = u8::try_from(libc::AF_INET).unwrap_or(u8::MAX);
    let mut message = vec![family, 32, 0, libc::RT_SCOPE_HOST];
    message.extend(LOOPBACK.to_ne_bytes());
    for attribute in ATTRIBUTES {
        message.extend(8_u16.to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend(address.octets());
    }
    message
}

fn route(kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
    let request = Request { kind, flags, body };
    let netlink = Netlink::open(SockProtocol::NetlinkRoute);
    let asked = netlink.and_then(|netlink| {
        netlink.ask(&request, |answer| match answer {
            Answer::Done | Answer::Message { .. } => Ok(()),
            Answer::Failed(error) => Err(error),
        })
    });
    asked.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?
}

#[cfg(test)]
mod tests {
    use super::{Before, Ipv4Addr, LoopbackAddress, is_there};

    #[test]
    fn an_address_that_is_there_is_left_alone() {
        let there = LoopbackAddress::add(Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!(there.before, Before::Present);
        drop(there);
        assert!(is_there(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn an_address_that_is_nowhere_is_not_there() {
        // For documentation only (RFC 5737).
        assert!(!is_there(Ipv4Addr::new(192, 0, 2, 1)));
    }
}
