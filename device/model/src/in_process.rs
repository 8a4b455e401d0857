//! The device behind real rings, without threads: two ports connected by a cable, served to
//! completion whenever a driver waits. The same calls give the same result every time.

mod memory;
mod port;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use zcnic_device::{
    features::Feature,
    receive::{Annotation, ReceiveCounters},
    steering::SteeringDecision,
    train::Train,
    transmit::{Snapshot, parse},
};

use self::{
    memory::{Chain, CrossMover, Span},
    port::{DevicePort, PortRings},
};
use crate::{
    driver::{Driver, Pair, Transport},
    guest::Guest,
};

/// Two ports and the cable between them.
#[derive(Debug)]
pub struct World {
    ports: [DevicePort; 2],
}

/// A driver's connection to its port.
#[derive(Clone, Debug)]
pub struct InProcess {
    world: Rc<RefCell<World>>,
    port: usize,
}

/// The clock of both ports, which advances at each reading.
#[derive(Clone, Debug, Default)]
struct Clock(Rc<Cell<u64>>);

impl Clock {
    fn read(&self) -> u64 {
        self.0.update(|now| now + 1000);
        self.0.get()
    }
}

/// Descriptors per ring.
pub const RING_SIZE: u16 = 1024;

/// The drivers of two cabled ports with `pairs` queue pairs each, command pair included.
#[must_use]
pub fn cabled(pairs: u16) -> [Driver<InProcess>; 2] {
    let guests = [0, 1].map(|_| {
        let mut guest = Guest::new();
        let pairs = Pair::allocate(&mut guest, pairs, RING_SIZE);
        (guest, pairs)
    });
    let clock = Clock::default();
    let ports = [0, 1].map(|port| {
        let (guest, pairs) = &guests[port];
        DevicePort::new(guest.memory(), pairs, port as u64, clock.clone())
    });
    let world = Rc::new(RefCell::new(World { ports }));
    let mut port = 0..;
    guests.map(|(guest, pairs)| {
        let transport = InProcess {
            world: Rc::clone(&world),
            port: port.next().expect("endless"),
        };
        Driver::new(guest, pairs, transport)
    })
}

impl Transport for InProcess {
    fn kick(&mut self, _ring: usize) {}

    fn wait(&mut self, _ring: usize) -> bool {
        self.world.borrow_mut().run()
    }
}

impl InProcess {
    /// Serves both ports until they have no work.
    pub fn run(&self) {
        self.world.borrow_mut().run();
    }

    /// Sends the driver an event (`EVENT_*`) as soon as it has posted a buffer for it.
    pub fn raise_event(&self, bits: u32) {
        self.world.borrow_mut().ports[self.port].pending_events |= bits;
    }

    /// Ends the session, as after a reset or disconnect by the frontend.
    pub fn end_session(&self) {
        self.world.borrow_mut().ports[self.port].end_session();
    }

    /// Counters of a receive queue, which a plain driver can't query.
    #[must_use]
    pub fn counters(&self, queue: u16) -> ReceiveCounters {
        self.world.borrow().ports[self.port].receive_counters(queue)
    }
}

impl World {
    /// Serves all rings until none has work; returns whether any had.
    fn run(&mut self) -> bool {
        let mut worked = false;
        loop {
            let before = worked;
            worked = false;
            for port in 0..self.ports.len() {
                worked |= self.ports[port].flush_events();
                for pair in 0..self.ports[port].pairs() {
                    while self.serve(port, pair) {
                        worked = true;
                    }
                }
            }
            if !worked {
                return before;
            }
        }
    }

    /// Serves one chain of a transmit ring.
    fn serve(&mut self, port: usize, pair: usize) -> bool {
        let Some(chain) = self.ports[port].take(pair) else {
            return false;
        };
        if self.ports[port].is_control(pair, &chain) {
            self.ports[port].control(pair, &chain);
        } else {
            self.ports[port].decide_plain(&chain);
            let rings = &self.ports[port].rings;
            let time = rings.configuration.clock.stamp(rings.clock.read());
            let sent = if chain.valid {
                self.send(port, &chain.readable)
            } else {
                None
            };
            self.ports[port].complete_frame(pair, &chain, sent, time);
        }
        true
    }

    /// Sends a frame over the cable; returns its wire frames and bytes, or `None` if it can't be
    /// sent.
    fn send(&mut self, from: usize, source: &[Span]) -> Option<(u64, u64)> {
        let [first, second] = &mut self.ports;
        let (sender, receiver) = if from == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let target = receiver.memory();
        let mover = CrossMover {
            source: &sender.memory(),
            target: &target,
        };
        let configuration = &sender.rings.configuration;
        let format = configuration.transmit_format?;
        let mut snapshot = Snapshot::default();
        let train = parse(
            &mover,
            source,
            format,
            configuration.features,
            &mut snapshot,
        )
        .ok()?;
        deliver(&mut receiver.rings, &mover, &train);
        Some((train.segments() as u64, train.wire_bytes() as u64))
    }
}

/// The receiving end of the cable.
fn deliver(rings: &mut PortRings, mover: &CrossMover<'_>, train: &Train<'_, [Span]>) {
    let segments = train.segments();
    match rings.configuration.steering.steer_train(None, train) {
        SteeringDecision::Filtered => rings.counters.filtered += segments as u64,
        SteeringDecision::Oversize => rings.counters.oversize += segments as u64,
        SteeringDecision::RuleDrop => rings.counters.rule_drop += segments as u64,
        SteeringDecision::Queue { queue, hash } => {
            let Some(rx) = rings.receive.get_mut(usize::from(queue)) else {
                return;
            };
            let note = Annotation {
                queue,
                hash,
                offloads: rings.configuration.offloads,
                time: match rings.configuration.offloads.has(Feature::Timestamp) {
                    true => rings.configuration.clock.stamp(rings.clock.read()),
                    false => 0,
                },
                vlan: None,
            };
            let mut chains = memory::ReceiveChains::new(&mut rx.ring, mover.target);
            let mut from = 0;
            while from < segments {
                let delivered = rx.queue.deliver(mover, &mut chains, train, from, &note);
                from = delivered
                    .blocked_at
                    .map_or(segments, |at| rx.queue.drop_blocked(train, at));
            }
        }
    }
}

impl Chain {
    /// Bytes of all readable descriptors.
    fn readable_length(&self) -> usize {
        self.readable.iter().map(|span| span.length).sum()
    }
}
