//! Generic netlink, as much as a test needs: resolve a family, ask, read attributes.
//!
//! netlink-bindings 0.3 decodes the specs' `uint` as 32 bits and silently ends the message at the
//! first 64-bit one, which `rx-bytes` is from 4 GiB on, so this decodes messages by hand.

use std::{io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{GENERIC, SocketAddrNetlink},
    recv, sendto, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;

/// Attributes of a message to send.
#[derive(Debug, Default, Clone)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends one attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a nest.
    #[must_use]
    pub fn with_nest(self, kind: u16, nest: &Self) -> Self {
        self.with(kind | 0x8000, &nest.0)
    }
}

/// Attributes of a received message.
#[derive(Debug, Clone)]
pub struct Reply(Vec<u8>);

impl Reply {
    /// All attributes: type without flags, and value. Ends at the first malformed one.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let len = usize::from(read_u16(rest, 0)?);
            let kind = read_u16(rest, 2)? & 0x3fff;
            let value = rest.get(4..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// First attribute of a type.
    #[must_use]
    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        self.iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// First attribute of a type, as an unsigned number of any width (`uint` has 4 or 8 bytes).
    #[must_use]
    pub fn uint(&self, kind: u16) -> Option<u64> {
        uint(self.get(kind)?)
    }

    /// First attribute of a type, as a nest.
    #[must_use]
    pub fn nest(&self, kind: u16) -> Option<Self> {
        Some(Self(self.get(kind)?.to_vec()))
    }
}

/// A number of 1, 2, 4 or 8 bytes in host order.
#[must_use]
pub fn uint(value: &[u8]) -> Option<u64> {
    Some(match value.len() {
        1 => value[0].into(),
        2 => u16::from_ne_bytes(value.try_into().ok()?).into(),
        4 => u32::from_ne_bytes(value.try_into().ok()?).into(),
        8 => u64::from_ne_bytes(value.try_into().ok()?),
        _ => return None,
    })
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A socket bound to one generic netlink family of the calling thread's network namespace.
#[derive(Debug)]
pub struct Family {
    socket: OwnedFd,
    id: u16,
}

impl Family {
    /// Resolves `name`, for instance "netdev".
    pub fn open(name: &str) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(GENERIC),
        )?;
        let mut family = Self {
            socket,
            id: GENL_ID_CTRL,
        };
        let wanted =
            Attributes::default().with(CTRL_ATTR_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let replies = family.request(CTRL_CMD_GETFAMILY, false, &wanted)?;
        family.id = replies
            .first()
            .and_then(|reply| reply.uint(CTRL_ATTR_FAMILY_ID))
            .and_then(|id| u16::try_from(id).ok())
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(family)
    }

    /// Sends a command and collects the answers; with `dump`, those of all objects.
    pub fn request(
        &self,
        command: u8,
        dump: bool,
        attributes: &Attributes,
    ) -> io::Result<Vec<Reply>> {
        let flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { NLM_F_ACK };
        let mut message = Vec::with_capacity(HEADERS + attributes.0.len());
        message.extend(((HEADERS + attributes.0.len()) as u32).to_ne_bytes());
        message.extend(self.id.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(&attributes.0);
        sendto(
            &self.socket,
            &message,
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;

        let mut replies = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (len, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            if parse(&buffer[..len], &mut replies)? {
                return Ok(replies);
            }
        }
    }
}

/// Appends the messages of one datagram; true if the answer is complete.
fn parse(mut datagram: &[u8], replies: &mut Vec<Reply>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message");
    while !datagram.is_empty() {
        let len = read_u32(datagram, 0).ok_or_else(malformed)? as usize;
        let kind = read_u16(datagram, 4).ok_or_else(malformed)?;
        let message = datagram.get(..len).ok_or_else(malformed)?;
        match kind {
            // Both carry an errno; 0 in NLMSG_ERROR is an acknowledgement.
            NLMSG_ERROR | NLMSG_DONE => {
                let errno = read_u32(message, 16).ok_or_else(malformed)?.cast_signed();
                return if errno == 0 {
                    Ok(true)
                } else {
                    Err(io::Error::from_raw_os_error(-errno))
                };
            }
            _ => replies.push(Reply(
                message.get(HEADERS..).ok_or_else(malformed)?.to_vec(),
            )),
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_a_round_trip() {
        let inner = Attributes::default().with(2, b"eth0\0");
        let sent = Attributes::default()
            .with(1, &7u32.to_ne_bytes())
            .with_nest(5, &inner)
            .with(9, &(1u64 << 40).to_ne_bytes());
        let reply = Reply(sent.0);
        assert_eq!(reply.uint(1), Some(7));
        assert_eq!(reply.nest(5).unwrap().get(2), Some(b"eth0\0".as_slice()));
        assert_eq!(reply.uint(9), Some(1 << 40));
        assert_eq!(reply.get(3), None);
    }

    #[test]
    fn malformed_messages_are_errors_or_end_the_list() {
        assert_eq!(Reply(vec![200, 0, 1, 0, 0]).iter().count(), 0);
        assert_eq!(Reply(vec![2, 0, 1, 0]).iter().count(), 0);
        assert!(parse(&[1, 2, 3], &mut Vec::new()).is_err());
        let mut message = vec![0; 20];
        message[0] = 20;
        message[4] = 3;
        message[16..20].copy_from_slice(&(-95i32).to_ne_bytes());
        let error = parse(&message, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(95));
    }

    #[test]
    fn the_kernel_answers() {
        let control = Family::open("nlctrl").unwrap();
        assert_eq!(control.id, GENL_ID_CTRL);
        let families = control
            .request(CTRL_CMD_GETFAMILY, true, &Attributes::default())
            .unwrap();
        assert!(
            families.iter().any(|family| {
                family.get(CTRL_ATTR_FAMILY_NAME) == Some(b"nlctrl\0".as_slice())
            })
        );
        assert!(Family::open("no-such-family").is_err());
    }
}
