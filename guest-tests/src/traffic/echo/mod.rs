//! `zcnic-guest echo`: sends UDP datagrams back before the stack sees them, by an XDP program or
//! through an AF_XDP socket. `zcnic-guest udp-ping` is its partner.

use std::{
    io,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use zcnic_guest_protocol::event::Event;

use crate::{
    kit::{
        bpf::{Abilities, Attached},
        net,
    },
    traffic::progress::report,
};

mod bpf;
pub(crate) mod socket;

use bpf::{EchoAction, SocketMap, program};
use socket::{Shape, Socket};

/// Time limit for the kernel to release a queue.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends UDP datagrams over IPv4 back to their sender, until it is killed
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Interface
    #[arg(long)]
    interface: String,
    /// Port of the datagrams; all other frames pass
    #[arg(long)]
    port: u16,
    /// How to send them back
    #[arg(long, value_enum)]
    by: By,
    /// Also send back frames that take several buffers
    #[arg(long)]
    fragments: bool,
    /// Queue of the socket
    #[arg(long, default_value_t = 0)]
    queue: u32,
    /// Have the kernel copy between the socket's memory and the driver's
    #[arg(long)]
    copy: bool,
    /// Use unaligned chunks of the socket's memory
    #[arg(long)]
    unaligned: bool,
    /// Wake the kernel for each batch instead of when its rings ask for it (no XDP_USE_NEED_WAKEUP)
    #[arg(long)]
    always_wake: bool,
    /// Bytes per chunk
    #[arg(long, default_value_t = 2048)]
    chunk: u32,
    /// Bytes of headroom in front of frames
    #[arg(long, default_value_t = 0)]
    headroom: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    /// By the program, with XDP_TX
    Tx,
    /// By the program, redirected to the interface
    Redirect,
    /// Through an AF_XDP socket
    Socket,
}

/// Runs `zcnic-guest echo`.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let interface = net::ifindex(&args.interface)?;
    let attach = |action| {
        let abilities = Abilities {
            fragments: args.fragments,
            metadata: false,
        };
        Attached::new(interface, &program(args.port, action), abilities)
            .context("attach the program")
    };
    let _attached = match args.by {
        By::Tx => attach(EchoAction::Transmit)?,
        By::Redirect => attach(EchoAction::Redirect(interface))?,
        By::Socket => {
            let shape = Shape {
                copy: args.copy,
                unaligned: args.unaligned,
                need_wakeup: !args.always_wake,
                several_chunks: args.fragments,
                chunk: args.chunk,
                headroom: args.headroom,
                sends: false,
            };
            let mut socket = bind(interface, args.queue, shape).context("bind the socket")?;
            let map = SocketMap::new(args.queue + 1).context("make the map")?;
            map.insert(args.queue, socket.as_raw_fd())
                .context("put the socket into the map")?;
            let _attached = attach(EchoAction::Socket(&map))?;
            report(&Event::Echoing {
                zero_copy: socket.is_zero_copy()?,
            });
            return Err(socket.echo()).context("the socket");
        }
    };
    report(&Event::Echoing { zero_copy: false });
    loop {
        thread::park();
    }
}

/// Binds the socket. The kernel releases a queue some time after the previous socket was closed.
fn bind(interface: u32, queue: u32, shape: Shape) -> io::Result<Socket> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Socket::bind(interface, queue, shape) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}
