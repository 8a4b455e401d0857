//! `zcnic-guest send`: one TCP connection that carries the pattern.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use zcnic_guest_protocol::event::{Event, SendResult};

use crate::{
    kit::net,
    traffic::{
        pattern::Pattern,
        progress::{INTERVAL, Progress, report, report_result},
    },
};

/// Bytes per write: many times the largest segment.
const WRITE: usize = 256 << 10;

/// Sends the pattern over one TCP connection and waits until the receiver has closed it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port of the receiver, such as `192.0.2.1:4433` or `[2001:db8::1]:4433`
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// Length of the stream
    #[arg(long)]
    bytes: u64,
    /// Network namespace to send from
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Seed of the pattern; the receiver needs the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail when nothing has moved for this time (0: never)
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    stall_limit: u64,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(name) = &args.netns {
        net::enter_netns(name)?;
    }
    let limit = (args.stall_limit > 0).then(|| Duration::from_secs(args.stall_limit));
    let mut progress = Progress::new(limit);
    let started = Instant::now();
    let outcome = transfer(args, &mut progress);
    report_result(SendResult {
        ok: outcome.is_ok(),
        error: outcome.as_ref().err().map(|error| format!("{error:#}")),
        bytes_sent: progress.bytes(),
        seconds: started.elapsed().as_secs_f64(),
    });
    outcome.map(|()| ExitCode::SUCCESS)
}

fn transfer(args: &Args, progress: &mut Progress) -> anyhow::Result<()> {
    let pattern = Pattern::new(args.seed);
    let mut stream =
        TcpStream::connect(args.to).with_context(|| format!("connecting to {}", args.to))?;
    stream.set_write_timeout(Some(INTERVAL))?;
    stream.set_read_timeout(Some(INTERVAL))?;
    report(&Event::Connected {
        peer: args.to.to_string(),
    });

    let mut buffer = vec![0; WRITE];
    while progress.bytes() < args.bytes {
        let len = WRITE.min(usize::try_from(args.bytes - progress.bytes()).unwrap_or(WRITE));
        pattern.fill(progress.bytes(), &mut buffer[..len]);
        let mut done = 0;
        while done < len {
            match stream.write(&buffer[done..len]) {
                Ok(0) => bail!("the connection takes no more data"),
                Ok(sent) => {
                    done += sent;
                    progress.add(sent as u64);
                }
                Err(error) if is_timeout(error.kind()) => progress.idle()?,
                Err(error) => return Err(error).context("sending"),
            }
        }
    }
    stream.shutdown(Shutdown::Write).context("closing")?;
    // The receiver closes after it has seen everything.
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => bail!("the receiver sent data"),
            Err(error) if is_timeout(error.kind()) => progress.idle()?,
            Err(error) => return Err(error).context("waiting for the receiver to close"),
        }
    }
}

/// Whether an error means that a socket's time limit is over, or that a signal came.
pub(crate) fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
