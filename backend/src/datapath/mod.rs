//! The data path: from a transmit ring over the cable to the receive rings of its other end.
//!
//! A worker calls [`transmit::serve`] for a transmit ring: it takes a batch of chains, makes trains
//! of them and hands these to [`receive::send`], which steers them on the peer and places them in
//! its receive buffers. The files stand here from the lowest to the highest.
//!
//! Lock order: a transmit queue or the generator, then one receive queue. Effects that need other
//! locks are applied, and interrupts raised, when no queue is locked.

pub(crate) mod batch;
pub(crate) mod capture;
pub(crate) mod effects;
mod faulty;
pub(crate) mod generate;
pub(crate) mod interrupts;
pub(crate) mod lanes;
pub(crate) mod receive;
mod rx_queue;
pub(crate) mod transmit;
