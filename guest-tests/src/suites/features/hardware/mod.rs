//! Functions of the NIC beyond moving frames: its PTP clock and timestamps, metadata of frames,
//! interrupt moderation and affinity.

mod flow;
mod interrupts;
mod metadata;
mod sys;
mod time;

use super::case::FeatureCase;

pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "hardware: received frames have a time between two readings of the PTP clock",
        run: time::received,
    },
    FeatureCase {
        name: "hardware: sent frames have a time between two readings of the PTP clock",
        run: time::sent,
    },
    FeatureCase {
        name: "hardware: both ports have one clock, and no frame arrives before it was sent",
        run: time::both_ends,
    },
    FeatureCase {
        name: "hardware: timestamps follow the PTP clock when it is set",
        run: time::set_clock,
    },
    FeatureCase {
        name: "hardware: XDP programs can read the device's metadata of a frame",
        run: metadata::programs,
    },
    FeatureCase {
        name: "hardware: VLAN tags are stripped or left in, and every byte arrives",
        run: metadata::streams,
    },
    FeatureCase {
        name: "hardware: interrupts of a receiver are moderated by frames and by time",
        run: interrupts::moderated_receive,
    },
    FeatureCase {
        name: "hardware: interrupts of a sender are moderated by frames and by time",
        run: interrupts::moderated_transmit,
    },
    FeatureCase {
        name: "hardware: a queue's interrupt goes to the processor of its affinity",
        run: interrupts::affinity,
    },
    FeatureCase {
        name: "hardware: threaded NAPI receives everything",
        run: interrupts::threaded,
    },
    FeatureCase {
        name: "hardware: a busy-polling reader receives without interrupts",
        run: interrupts::busy_poll,
    },
];
