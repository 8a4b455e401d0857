//! `zcnic-guest udp-ping`: UDP datagrams that are expected to come back as they are.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use zcnic_guest_protocol::event::UdpPingResult;

use crate::{
    kit::net,
    traffic::{pattern::Pattern, progress::report_result},
};

/// Sends datagrams that carry the pattern, and verifies each when it comes back; a lost one is an
/// error
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port of the echo, for instance 192.0.2.1:7777
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// Number of datagrams
    #[arg(long)]
    count: u32,
    /// Payload bytes of the longest datagram; sizes vary from 8 up to it
    #[arg(long)]
    size: usize,
    /// Datagrams in flight; more than 8 of the longest don't fit a socket's receive buffer
    #[arg(long, default_value_t = 8)]
    window: usize,
    /// Time limit per datagram
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    patience: u64,
    /// Network namespace to send from
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Source port, so that several calls are one flow (0: any)
    #[arg(long, default_value_t = 0)]
    from_port: u16,
}

/// Bytes of a datagram's number, in front of its part of the pattern.
const NUMBER: usize = 8;

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        args.size >= NUMBER,
        "a datagram has at least {NUMBER} bytes"
    );
    if let Some(name) = &args.netns {
        net::enter_netns(name)?;
    }
    let socket = UdpSocket::bind(("0.0.0.0", args.from_port)).context("bind")?;
    socket.connect(args.to).context("connect")?;
    socket.set_read_timeout(Some(Duration::from_secs(args.patience)))?;
    let pattern = Pattern::new(1);
    let size = |number: u32| NUMBER + (number as usize * 37) % (args.size - NUMBER + 1);
    let mut result = UdpPingResult::default();
    let mut away = VecDeque::new();
    let mut next = 0;
    let mut buffer = vec![0; 65536];
    while result.datagrams < args.count {
        while away.len() < args.window && next < args.count {
            let datagram = &mut buffer[..size(next)];
            datagram[..NUMBER].copy_from_slice(&u64::from(next).to_le_bytes());
            pattern.fill(u64::from(next) << 16, &mut datagram[NUMBER..]);
            socket.send(datagram).context("send")?;
            away.push_back(next);
            next += 1;
        }
        let length = socket
            .recv(&mut buffer)
            .with_context(|| format!("waiting for datagram {:?} of {next}", away.front()))?;
        ensure!(length >= NUMBER, "a datagram of {length} bytes");
        let (number, bytes) = buffer[..length].split_at(NUMBER);
        let number = u64::from_le_bytes(number.try_into()?);
        // One flow in one queue keeps its order.
        ensure!(
            away.pop_front().map(u64::from) == Some(number),
            "datagram {number} came out of order"
        );
        ensure!(
            length == size(number as u32),
            "datagram {number} has {length} bytes"
        );
        pattern
            .verify(number << 16, bytes)
            .with_context(|| format!("datagram {number}"))?;
        result.datagrams += 1;
        result.bytes_verified += length as u64;
    }
    report_result(result);
    Ok(ExitCode::SUCCESS)
}
