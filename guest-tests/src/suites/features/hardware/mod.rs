//! What the card does for the stack beyond moving frames: it tells the time, says what it knows of a frame, and interrupts
//! as it is asked to.

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
        name: "hardware: what the device says of a frame, XDP programs can read",
        run: metadata::programs,
    },
    FeatureCase {
        name: "hardware: VLAN tags are taken out or left in, and every byte arrives",
        run: metadata::streams,
    },
    FeatureCase {
        name: "hardware: interrupts of a receiver are coalesced by frames and by time",
        run: interrupts::coalesced_receive,
    },
    FeatureCase {
        name: "hardware: interrupts of a sender are coalesced by frames and by time",
        run: interrupts::coalesced_transmit,
    },
    FeatureCase {
        name: "hardware: a queue's interrupt goes to the processor that it is told to",
        run: interrupts::affinity,
    },
    FeatureCase {
        name: "hardware: NAPI in threads of its own receives everything",
        run: interrupts::threaded,
    },
    FeatureCase {
        name: "hardware: whoever polls receives without interrupts",
        run: interrupts::busy_poll,
    },
];
