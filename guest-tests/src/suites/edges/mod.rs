//! `zcnic-guest edges`: the driver where ordinary traffic does not lead: AF_XDP sockets that wait,
//! short frames, netpoll, deferred completions.

mod sockets;
mod transmit;

use std::process::ExitCode;

use anyhow::Result;

use crate::fixture::{cases::Selection, lab::Lab, transcript::Transcript};

/// Tries the driver where ordinary traffic does not lead, and prints a JSON object for each case
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
}

/// A case of the suite.
struct EdgeCase {
    name: &'static str,
    run: fn(&mut Lab, &Transcript) -> Result<()>,
}

const CASES: &[EdgeCase] = &[
    EdgeCase {
        name: "af_xdp: the fill ring asks for a wake-up until the driver has enough buffers",
        run: sockets::fill_wakeup,
    },
    EdgeCase {
        name: "af_xdp: the transmit ring asks for a wake-up only while no frame is in flight",
        run: sockets::transmit_wakeup,
    },
    EdgeCase {
        name: "af_xdp: frames that a socket queued without a link leave when it comes back",
        run: sockets::link_flap,
    },
    EdgeCase {
        name: "af_xdp: the MTU does not outgrow a socket's buffers",
        run: sockets::mtu,
    },
    EdgeCase {
        name: "transmit: frames of the stack and of a socket are padded to 60 bytes",
        run: transmit::padding,
    },
    EdgeCase {
        name: "transmit: netpoll frees frames by the way for disabled interrupts",
        run: transmit::netpoll,
    },
    EdgeCase {
        name: "transmit: a queue whose completions are deferred is not stuck",
        run: transmit::deferred,
    },
];

/// Runs the subcommand.
///
/// # Errors
///
/// If the ports can't be configured. A case that fails is reported, not returned.
pub fn run(args: &Args) -> Result<ExitCode> {
    let transcript = Transcript::new(true);
    let run_case =
        |lab: &mut Lab, case: &&EdgeCase| lab.watched(|lab| (case.run)(lab, &transcript));
    args.selection.run(CASES.iter(), |case| case.name, run_case)
}
