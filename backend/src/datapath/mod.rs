//! The data path: from a transmit ring over the cable to the receive rings of its other end.
//!
//! A worker calls [`transmit::serve`] for a transmit ring: it takes a batch of chains, makes trains
//! of them and hands these to `egress::send`. On a cable [`receive`] steers them on the peer and
//! places them in its receive buffers. On a switch `forward` chooses the receivers first. For a
//! wire to the outside `outgoing` finishes frames for the threads of its line, which bring frames
//! to the port by [`ingress`].
//!
//! Lock order: a transmit queue, the generator or the ingress lock, then one receive queue. Effects
//! that need other locks are applied, and interrupts raised, when no queue is locked.

pub(crate) mod batch;
pub(crate) mod capture;
pub(crate) mod effects;
mod egress;
mod faulty;
mod forward;
pub(crate) mod generate;
pub(crate) mod ingress;
pub(crate) mod interrupts;
pub(crate) mod lanes;
mod outgoing;
mod receive;
mod rx_queue;
pub(crate) mod transmit;
