//! Chains of transmit rings that the data path leaves to control: commands of the zcnic driver, and
//! first frames, which decide who drives the port.

use zcnic_device::{
    abi,
    fault::{CommandFault, Direction, Effects},
    port::DriverMode,
    transmit::has_zcnic_header,
};

use super::{events, rings::PortRings, session};
use crate::{
    config::PortMode,
    datapath::{effects, lanes::with_tx_ring},
    index::PairIndex,
    port::{Port, control_state::ControlState},
    ring::{
        RingError,
        chain::walk,
        mover::{gather, scatter},
        raw::Span,
        split::SplitRing,
    },
};

/// The next chain of a transmit ring, as far as control cares.
enum ControlChain {
    /// There is no chain.
    Empty,
    /// A request, and room for the response.
    Request(Vec<u8>),
    /// A chain with a writable part that is not a command, or an invalid one.
    Invalid,
    /// A frame.
    Frame,
    /// A frame with a zcnic header.
    ZcnicFrame,
}

/// Serves the next chain of a transmit ring: executes a command, or decides who drives the port.
pub(crate) fn serve(port: &Port, pair: PairIndex) {
    let mut control = port.control();
    let next = with_ring(port, pair, ControlChain::read).unwrap_or(ControlChain::Empty);
    match next {
        ControlChain::Empty => {}
        ControlChain::Request(request) if port.mode != PortMode::Plain => {
            let before = control.command_pair();
            let response = execute_faulty(port, pair, &request, &mut control);
            if let Some(response) = response {
                complete(port, pair, &response);
            }
            if control.command_pair() != before {
                port.context.info(format_args!(
                    "driven by the zcnic driver with {pair} data pairs"
                ));
            }
            events::flush(port, &mut control);
        }
        ControlChain::Frame if control.device.mode() == DriverMode::Undecided => {
            if port.mode == PortMode::Auto && control.is_modern() {
                session::run_plain(port, &mut control);
            } else {
                refuse(port, pair);
            }
        }
        ControlChain::Frame | ControlChain::ZcnicFrame if control.command_pair() == Some(pair) => {
            refuse(port, pair);
        }
        // The driver sent it before it noticed that the backend was restarted.
        ControlChain::ZcnicFrame if control.device.mode() == DriverMode::Undecided => {
            refuse(port, pair);
        }
        // The port was decided meanwhile: the frame is the data path's.
        ControlChain::Frame | ControlChain::ZcnicFrame => {}
        ControlChain::Request(_) | ControlChain::Invalid => refuse(port, pair),
    }
}

fn execute(port: &Port, pair: PairIndex, request: &[u8], control: &mut ControlState) -> Vec<u8> {
    let mut rings = PortRings::new(port, control.publish_context());
    control.device.execute(pair.queue(), request, &mut rings)
}

/// Executes a command, unless a fault rule fails it. Returns the response; `None`: a fault rule
/// holds it back.
fn execute_faulty(
    port: &Port,
    pair: PairIndex,
    request: &[u8],
    control: &mut ControlState,
) -> Option<Vec<u8>> {
    let Some(armed) = port.faults.armed(Direction::Command) else {
        return Some(execute(port, pair, request, control));
    };
    let mut effects = Effects::default();
    let strike = port
        .queues
        .tx(pair)
        .commands
        .command(&armed, request, &mut effects);
    effects::apply(port, effects);
    let Some(strike) = strike else {
        return Some(execute(port, pair, request, control));
    };
    match strike.fault {
        CommandFault::Error { status, detail } => {
            Some(control.device.fail(request, status, detail))
        }
        CommandFault::Timeout {
            executed,
            nanoseconds,
        } => {
            let response = if executed {
                execute(port, pair, request, control)
            } else {
                Vec::new()
            };
            let context = &port.context;
            let now = context.now();
            with_tx_ring(context, &port.queues, pair, |ring, _, commands| {
                let length = write_response(ring, &response);
                commands.hold_answer(ring, length, strike, nanoseconds, now);
            });
            let due = port.queues.tx(pair).commands.next_deadline(Some(&armed));
            context.schedule_lane(Direction::Command, pair, due);
            None
        }
    }
}

/// Returns the next chain with `response` in its writable part, as much as fits.
fn complete(port: &Port, pair: PairIndex, response: &[u8]) {
    with_ring(port, pair, |ring| {
        if ring.available(1)? == 0 {
            return Ok(());
        }
        let head = ring.head(0)?;
        let written = write_response(ring, response);
        ring.complete(head, written);
        Ok(())
    });
}

/// Returns the next chain with length 0, neither executed nor sent, and counts an error.
fn refuse(port: &Port, pair: PairIndex) {
    complete(port, pair, &[]);
    port.queues.tx(pair).counters.errors += 1;
}

/// Runs `action` on a running transmit ring, publishes what it completed and notifies the driver.
fn with_ring<T>(
    port: &Port,
    pair: PairIndex,
    action: impl FnOnce(&mut SplitRing<'_>) -> Result<T, RingError>,
) -> Option<T> {
    let mut queue = port.queues.tx(pair);
    let transport = &mut queue.transport;
    let (result, interrupt) = transport.with_ring(action);
    let result = match result {
        Ok(value) => value,
        Err(error) => {
            port.context.mark_broken(pair.tx_ring(), transport, error);
            None
        }
    };
    drop(queue);
    if let Some(interrupt) = interrupt {
        interrupt.raise();
    }
    result
}

impl ControlChain {
    fn read(ring: &mut SplitRing<'_>) -> Result<Self, RingError> {
        if ring.available(1)? == 0 {
            return Ok(Self::Empty);
        }
        let mut spans = Vec::new();
        let Ok(chain) = walk(ring.map(), ring.head(0)?, &mut spans) else {
            return Ok(Self::Invalid);
        };
        let readable = chain.readable(&spans);
        let length: usize = readable.iter().map(Span::len).sum();
        if !chain.has_writable() {
            let mut start = vec![0; length.min(size_of::<abi::TxHeader>())];
            gather(readable, 0, &mut start);
            let is_zcnic = has_zcnic_header(&start);
            return Ok(if is_zcnic {
                Self::ZcnicFrame
            } else {
                Self::Frame
            });
        }
        // One byte more than allowed suffices for the device to see that the request is too long.
        let mut request = vec![0; length.min(abi::MAX_REQUEST + 1)];
        gather(readable, 0, &mut request);
        let is_command = request.starts_with(&abi::MAGIC.to_le_bytes());
        Ok(if is_command {
            Self::Request(request)
        } else {
            Self::Invalid
        })
    }
}

/// Writes `response` to the writable part of the next chain, as much as fits; returns its bytes.
fn write_response(ring: &SplitRing<'_>, response: &[u8]) -> u32 {
    let mut spans = Vec::new();
    // The driver may have changed the chain since it was read: it is walked and checked again.
    let chain = ring
        .head(0)
        .ok()
        .and_then(|head| walk(ring.map(), head, &mut spans).ok());
    chain.map_or(0, |chain| scatter(chain.writable(&spans), response)) as u32
}
