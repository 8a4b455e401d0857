//! Faults and ledgers of a port: its rules, and the data path of ports that have some.
//!
//! A port without rules pays one load per batch and direction. Effects that need other locks, events among
//! them, are carried out when no ring is locked ([`Port::carry_out`]); what is held back for a time is taken
//! up by the thread that runs the [hub](crate::timer).

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, Ordering},
};

use zcnic_ctl::protocol::event::{self, Event};
use zcnic_device::fault::{
    Armed, Direction, Effects, Engine, PortFault, Rule, RuleError, RuleId, RuleStatus,
};

use crate::{
    config::MAX_PAIRS,
    port::{Port, RxQueue, TxQueue},
    protocol::direction_to_protocol,
    ring::{
        RingError,
        receive::ReceiveChains,
        transport::{Interrupt, Transport},
        window::PrefetchWindow,
    },
    sync::lock,
    timer::Job,
};

const DIRECTIONS: [Direction; 3] = [Direction::Receive, Direction::Transmit, Direction::Command];

/// The fault rules of one port.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    engine: Mutex<Engine>,
    armed: [Mutex<Option<Arc<Armed>>>; DIRECTIONS.len()],
    /// A bit for each direction that has rules.
    any: AtomicU8,
}

impl Faults {
    /// The rules of one direction; asked for once per batch.
    pub(crate) fn current(&self, direction: Direction) -> Option<Arc<Armed>> {
        if cfg!(feature = "without-faults") {
            return None;
        }
        if self.any.load(Ordering::Acquire) & 1 << direction as u8 == 0 {
            return None;
        }
        lock(&self.armed[direction as usize]).clone()
    }

    /// Adds all rules or none.
    pub(crate) fn add(
        &self,
        rules: Vec<Rule>,
        next: impl FnMut() -> RuleId,
    ) -> Result<Vec<RuleId>, RuleError> {
        let mut engine = lock(&self.engine);
        let ids = engine.add(rules, next)?;
        self.publish(&engine);
        Ok(ids)
    }

    /// The rules with their counts.
    pub(crate) fn list(&self) -> Vec<RuleStatus> {
        lock(&self.engine).list().collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = lock(&self.engine);
        let result = change(&mut engine);
        self.publish(&engine);
        result
    }

    fn publish(&self, engine: &Engine) {
        let mut any = 0;
        for direction in DIRECTIONS {
            let armed = engine.armed(direction).map(Arc::new);
            any |= u8::from(armed.is_some()) << direction as u8;
            *lock(&self.armed[direction as usize]) = armed;
        }
        self.any.store(any, Ordering::Release);
    }
}

impl Port {
    /// Removes a rule and lets go what it holds back; `false` if there is none of that number.
    pub(crate) fn remove_fault(&self, id: RuleId) -> bool {
        let removed = self.faults.change(|engine| engine.remove(id));
        if removed {
            self.let_go();
        }
        removed
    }

    /// Removes all rules and lets go what they hold back.
    pub(crate) fn clear_faults(&self) {
        self.faults.change(Engine::clear);
        self.let_go();
    }

    /// Has all lanes looked at that hold something back.
    fn let_go(&self) {
        for queue in 0..MAX_PAIRS as u16 {
            let pair = usize::from(queue);
            let receive = lock(&self.receive[pair]).lane.is_idle();
            let (transmit, commands) = {
                let side = lock(&self.transmit[pair]);
                (side.lane.is_idle(), side.commands.is_idle())
            };
            for (direction, idle) in DIRECTIONS.into_iter().zip([receive, transmit, commands]) {
                if !idle {
                    self.hub
                        .schedule(0, Job::Lane(self.index, direction, queue));
                }
            }
        }
    }

    /// Does what rules want done when no ring of this port is locked, nor any ring that comes before its
    /// receive rings.
    pub(crate) fn carry_out(&self, effects: Effects) {
        if !effects.hits.is_empty() {
            for hit in effects.hits {
                self.hub.events.publish(|| {
                    Event::FaultHit(event::FaultHit {
                        port: self.name.clone(),
                        id: hit.rule.0,
                        action: hit.action.into(),
                        direction: direction_to_protocol(hit.direction),
                        queue: hit.queue,
                        count: hit.count,
                        hit: hit.hit,
                    })
                });
            }
            self.hub.events.wake();
        }
        for fault in effects.port {
            self.hub.schedule(
                0,
                match fault {
                    PortFault::LinkFlap { nanoseconds } => Job::LinkFlap(self.index, nanoseconds),
                    PortFault::DeviceReset => Job::DeviceReset(self.index),
                    PortFault::Disconnect => Job::Disconnect(self.index),
                },
            );
        }
        for (queue, frame) in effects.redirected {
            self.on_receive(queue, |faulty, note| {
                faulty.deliver_frame(&frame, note);
            });
        }
    }

    /// Something that a lane holds back may be due.
    pub(crate) fn lane_due(&self, direction: Direction, queue: u16) {
        match direction {
            Direction::Receive => {
                self.on_receive(queue, |faulty, note| {
                    faulty.release(note);
                });
            }
            Direction::Transmit => self.transmit_due(queue),
            Direction::Command => self.commands_due(queue),
        }
    }

    fn transmit_due(&self, queue: u16) {
        let pair = usize::from(queue);
        let armed = self.faults.current(Direction::Transmit);
        let now = self.hub.now();
        let frames = {
            let mut side = lock(&self.transmit[pair]);
            let frames = side.lane.take_due(armed.as_deref(), now);
            self.follow(
                Direction::Transmit,
                queue,
                side.lane.next_due(armed.as_deref()),
            );
            frames
        };
        self.on_transmit_side(pair, |ring, lane, _| {
            lane.return_due(ring, armed.as_deref(), now);
        });
        self.send_frames(&frames);
        // A stall may have ended.
        self.worker(2 * pair + 1).kick(2 * pair + 1);
    }

    fn commands_due(&self, queue: u16) {
        let armed = self.faults.current(Direction::Command);
        let now = self.hub.now();
        self.on_transmit_side(usize::from(queue), |ring, _, commands| {
            commands.return_due(ring, armed.as_deref(), now);
        });
        let next = lock(&self.transmit[usize::from(queue)])
            .commands
            .next_due(armed.as_deref());
        self.follow(Direction::Command, queue, next);
    }

    /// Has a lane looked at again when it is due.
    pub(crate) fn follow(&self, direction: Direction, queue: u16, due: Option<u64>) {
        /// What is due already could not be done now, so it is not tried at once.
        const PAUSE: u64 = 1_000_000;
        if let Some(due) = due {
            let due = due.max(self.hub.now().saturating_add(PAUSE));
            self.hub
                .schedule(due, Job::Lane(self.index, direction, queue));
        }
    }

    /// The frontend stops a ring: what faults hold back is returned before, under the same lock.
    pub(crate) fn stop_transport(&self, ring: usize) {
        let pair = ring / 2;
        let interrupt = if ring.is_multiple_of(2) {
            let side = &mut *lock(&self.receive[pair]);
            let interrupt = self.release_receive(pair, side);
            let interrupt = interrupt.or_else(|| side.transport.take_moderated_interrupt());
            side.transport.stop(self.worker(ring));
            interrupt
        } else {
            let side = &mut *lock(&self.transmit[pair]);
            let interrupt = self.release_transmit(pair, side);
            let interrupt = interrupt.or_else(|| side.transport.take_moderated_interrupt());
            side.transport.stop(self.worker(ring));
            interrupt
        };
        if let Some(interrupt) = interrupt {
            interrupt.raise();
        }
    }

    /// Returns what faults hold back of rings that go on.
    pub(crate) fn release_all(&self) {
        for pair in 0..MAX_PAIRS {
            let interrupts = [
                self.release_receive(pair, &mut lock(&self.receive[pair])),
                self.release_transmit(pair, &mut lock(&self.transmit[pair])),
            ];
            for interrupt in interrupts.into_iter().flatten() {
                interrupt.raise();
            }
        }
    }

    fn release_receive(&self, pair: usize, side: &mut RxQueue) -> Option<Interrupt> {
        let RxQueue {
            transport,
            lane,
            ledger_state,
            ..
        } = side;
        if lane.is_idle() {
            return None;
        }
        let released = transport.ring().and_then(|ring| {
            if ring.is_none() {
                lane.forget();
            }
            let mut chains = ReceiveChains::new(ring, usize::MAX, PrefetchWindow::default())
                .recorded_by(ledger_state.recorder(|| self.hub.now()));
            lane.stop(&mut chains);
            let wanted = chains.publish();
            chains.error().map_or(Ok(wanted), Err)
        });
        self.released(2 * pair, transport, released)
    }

    fn release_transmit(&self, pair: usize, side: &mut TxQueue) -> Option<Interrupt> {
        let TxQueue {
            transport,
            lane,
            commands,
            ..
        } = side;
        if lane.is_idle() && commands.is_idle() {
            return None;
        }
        let released = transport.ring().map(|ring| {
            let Some(mut ring) = ring else {
                lane.forget();
                commands.forget();
                return false;
            };
            lane.stop(&mut ring);
            commands.stop(&mut ring);
            ring.publish()
        });
        self.released(2 * pair + 1, transport, released)
    }

    fn released(
        &self,
        ring: usize,
        transport: &mut Transport,
        wanted: Result<bool, RingError>,
    ) -> Option<Interrupt> {
        match wanted {
            Ok(true) => transport.interrupt(),
            Ok(false) => None,
            Err(error) => {
                self.broken(ring, transport, error);
                None
            }
        }
    }
}
