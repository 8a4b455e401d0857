//! Waits for a link's carrier by route netlink.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink, recv, sendto, socket_with,
    },
};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTMGRP_LINK: u32 = 1;
const NLM_F_REQUEST: u16 = 1;
/// Carrier (`IFF_LOWER_UP`).
const LOWER_UP: u32 = 1 << 16;
/// `struct nlmsghdr` and `struct ifinfomsg`.
const LEN: usize = 16 + 16;

/// Waits until the interface (of the calling thread's network namespace) has carrier.
pub fn wait_for_carrier(ifindex: u32, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let flags = SocketFlags::CLOEXEC;
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    // Subscribe before the query, so that no change is missed between the two.
    bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
    let mut ask = Vec::with_capacity(LEN);
    ask.extend((LEN as u32).to_ne_bytes());
    ask.extend(RTM_GETLINK.to_ne_bytes());
    ask.extend(NLM_F_REQUEST.to_ne_bytes());
    ask.extend([0; 12]);
    ask.extend(ifindex.to_ne_bytes());
    ask.extend([0; 8]);
    sendto(
        &socket,
        &ask,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;

    let mut buffer = vec![0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout))? == 0 {
            let text = format!("no carrier within {} s", limit.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let (len, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if has_carrier(&buffer[..len], ifindex)? {
            return Ok(());
        }
    }
}

/// Whether one of the messages reports that the interface has carrier.
fn has_carrier(mut datagram: &[u8], ifindex: u32) -> io::Result<bool> {
    let field = |bytes: &[u8], at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|field| field.try_into().ok())
            .map(u32::from_ne_bytes)
    };
    while let (Some(len), Some(kind)) = (field(datagram, 0), datagram.get(4..6)) {
        let kind = u16::from_ne_bytes([kind[0], kind[1]]);
        if kind == NLMSG_ERROR {
            let errno = field(datagram, 16).unwrap_or(0).cast_signed();
            return Err(io::Error::from_raw_os_error(-errno));
        }
        let (index, flags) = (field(datagram, 20), field(datagram, 24));
        if kind == RTM_NEWLINK && index == Some(ifindex) && flags.unwrap_or(0) & LOWER_UP != 0 {
            return Ok(true);
        }
        let next = (len as usize).max(LEN).next_multiple_of(4);
        datagram = datagram.get(next..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_carrier() {
        let lo = crate::kit::net::ifindex("lo").unwrap();
        wait_for_carrier(lo, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn an_interface_that_does_not_exist_is_an_error() {
        let error = wait_for_carrier(i32::MAX as u32, Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_link_without_carrier_times_out() {
        let mut message = vec![0; LEN];
        message[0] = LEN as u8;
        message[4] = RTM_NEWLINK as u8;
        message[20] = 7;
        assert!(!has_carrier(&message, 7).unwrap());
        message[26] = 1;
        assert!(has_carrier(&message, 7).unwrap());
        assert!(!has_carrier(&message, 8).unwrap());
        assert!(!has_carrier(&message[..10], 7).unwrap());
    }
}
