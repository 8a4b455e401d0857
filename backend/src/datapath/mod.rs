//! The data path: from a transmit ring over the cable to the receive rings of its other end.

pub(crate) mod batch;
mod capture;
pub(crate) mod faulty;
pub(crate) mod generate;
pub(crate) mod receive;
mod rx_queue;
pub(crate) mod transmit;
