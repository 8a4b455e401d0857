//! The data path of a port that has fault rules.

use std::sync::{Arc, atomic::Ordering};

use zcnic_device::{
    fault::{
        Armed, CommandFault, Direction, Effects, InterruptFault, Lane,
        lane::OwnedFrame,
        receive::{FaultyQueue, Progress},
        transmit::{ChainFault, Sent},
    },
    memory::FromDevice,
    receive::{Annotation, Delivered},
    steering::Verdict,
    train::finished,
    transmit::{Snapshot, TransmitCounters, TransmitFormat},
};

use crate::{
    control::command::answer,
    datapath::{
        batch::{RxBatch, TimestampSlot},
        transmit::parse_train,
    },
    port::{ActiveConfig, Backpressure, ControlState, End, Port, RxQueue, ServeOutcome, TxQueue},
    ring::{
        RingError, chain::Chain, mover::GuestMover, raw::Span, receive::ReceiveChains,
        split::SplitRing, window::PrefetchWindow,
    },
    sync::lock,
};

/// What fault rules said of a transmit chain whose train has to wait, as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleDecision {
    completion: Option<ChainFault>,
}

/// A batch of a transmit ring whose port has rules for it.
pub(crate) struct FaultyBatch<'b, 'm> {
    pub(crate) armed: &'b Armed,
    pub(crate) ring: &'b mut SplitRing<'m>,
    pub(crate) chains: &'b [Chain],
    pub(crate) spans: &'b [Span<'m>],
    pub(crate) timestamps: &'b [TimestampSlot],
    pub(crate) format: TransmitFormat,
    pub(crate) active: &'b Arc<ActiveConfig>,
    pub(crate) lane: &'b mut Lane,
    pub(crate) decision: &'b mut Option<RuleDecision>,
    pub(crate) counters: &'b mut TransmitCounters,
    pub(crate) backpressure: &'b mut Option<Backpressure>,
    pub(crate) effects: &'b mut Effects,
}

impl Port {
    /// Puts finished frames on the wire, in order. They have no place in a ring, so they wait for nobody.
    pub(crate) fn send_frames(&self, frames: &[OwnedFrame]) {
        if frames.is_empty() {
            return;
        }
        if self.hub.captures.any() {
            let bytes = frames.iter().map(|frame| &frame.bytes);
            bytes.for_each(|frame| self.captured_frame(frame));
        }
        let peer = match self.end() {
            Some(End::Port(peer, _)) => peer,
            Some(End::Null) => return,
            None => {
                self.counters
                    .no_carrier
                    .fetch_add(frames.len() as u64, Ordering::Relaxed);
                return;
            }
        };
        for frame in frames {
            let train = finished(&frame.bytes);
            let active = peer.active();
            let verdict = active
                .configuration
                .steering
                .steer(train.headers(), train.head());
            match verdict {
                Verdict::Queue { queue, hash } => {
                    let mut delivered = Delivered::default();
                    peer.on_receive(queue, |faulty, note| {
                        let note = Annotation { hash, ..*note };
                        let from = FromDevice(faulty.mover);
                        let mut faulty = FaultyQueue {
                            queue: &mut *faulty.queue,
                            lane: &mut *faulty.lane,
                            armed: faulty.armed,
                            mover: &from,
                            ring: &mut *faulty.ring,
                            now: faulty.now,
                            effects: &mut *faulty.effects,
                        };
                        let mut progress = Progress::default();
                        delivered = faulty.deliver(&train, &mut progress, &note, false);
                    });
                    let flows = peer.flows.current();
                    flows.count(train.headers(), train.head(), queue, &delivered);
                }
                Verdict::Filtered => {
                    peer.counters.filtered.fetch_add(1, Ordering::Relaxed);
                }
                Verdict::RuleDrop => {
                    peer.counters.rule_drop.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Works on a receive queue as its rules want, publishes, and carries out what follows.
    pub(crate) fn on_receive(
        &self,
        queue: u16,
        action: impl for<'a, 'm> FnOnce(
            &mut FaultyQueue<'a, GuestMover<'m, 'm>, ReceiveChains<'m>>,
            &Annotation,
        ),
    ) {
        let pair = usize::from(queue);
        let Some(side) = self.receive.get(pair) else {
            return;
        };
        let armed = self.faults.current(Direction::Receive);
        let active = self.active();
        let note = Annotation {
            queue,
            hash: None,
            offloads: active.configuration.offloads,
            time: self.arrival(&active),
            vlan: None,
        };
        let mut effects = Effects::default();
        let mut guard = lock(side);
        let RxQueue {
            transport,
            queue: device,
            lane,
            ledger_state,
            ..
        } = &mut *guard;
        let usable = transport.is_enabled() && !active.suspended;
        let (ring, mut error) = match if usable { transport.ring() } else { Ok(None) } {
            Ok(ring) => (ring, None),
            Err(error) => (None, Some(error)),
        };
        let mut chains = ReceiveChains::new(ring, active.max_chains, PrefetchWindow::default())
            .recorded_by(ledger_state.recorder(|| self.hub.now()));
        action(
            &mut FaultyQueue {
                queue: device,
                lane,
                armed: armed.as_deref(),
                mover: &GuestMover::new(),
                ring: &mut chains,
                now: self.hub.now(),
                effects: &mut effects,
            },
            &note,
        );
        let wanted = Self::interrupt(chains.publish(), &mut effects);
        error = error.or(chains.error());
        drop(chains);
        let interrupt = if wanted { transport.interrupt() } else { None };
        if let Some(error) = error {
            self.broken(2 * pair, transport, error);
        }
        self.follow(Direction::Receive, queue, lane.next_due(armed.as_deref()));
        let violations = ledger_state.violations();
        drop(guard);
        if let Some(interrupt) = interrupt {
            interrupt.raise();
        }
        self.carry_out(effects);
        self.report_violations(pair, violations);
    }

    /// Works on a transmit ring and the lanes that belong to it, and publishes.
    pub(crate) fn on_transmit_side(
        &self,
        pair: usize,
        action: impl FnOnce(&mut SplitRing<'_>, &mut Lane, &mut Lane),
    ) {
        let mut guard = lock(&self.transmit[pair]);
        let TxQueue {
            transport,
            lane,
            commands,
            ..
        } = &mut *guard;
        let published = transport.ring().map(|ring| {
            ring.is_some_and(|mut ring| {
                action(&mut ring, lane, commands);
                ring.publish()
            })
        });
        let wanted = published.unwrap_or_else(|error| {
            self.broken(2 * pair + 1, transport, error);
            false
        });
        let interrupt = if wanted { transport.interrupt() } else { None };
        drop(guard);
        if let Some(interrupt) = interrupt {
            interrupt.raise();
        }
    }

    /// Sends a batch chain by chain, as rules want, and completes what was sent. What that came to: a
    /// deadline if the next train waits for receive buffers.
    pub(crate) fn send_faulty(
        &self,
        batch: FaultyBatch<'_, '_>,
        rx_batch: &mut RxBatch,
    ) -> Result<ServeOutcome, RingError> {
        let FaultyBatch {
            armed,
            ring,
            chains,
            spans,
            timestamps,
            format,
            active,
            lane,
            decision,
            counters,
            backpressure,
            effects,
        } = batch;
        for (position, chain) in chains.iter().enumerate() {
            let now = self.hub.now();
            if lane.is_stalled(Some(armed), now) {
                // The lane's end, or the rule's, has the ring looked at again.
                return Ok(ServeOutcome::Idle);
            }
            let head = ring.head(0)?;
            let mut snapshot = Snapshot::default();
            let Ok(train) = parse_train(chain.readable(spans), format, active, &mut snapshot)
            else {
                counters.errors += 1;
                ring.complete(head, 0);
                continue;
            };
            let sent = match decision.take() {
                Some(RuleDecision { completion }) => Sent {
                    frames: None,
                    completion,
                },
                None => lane.send(armed, &GuestMover::new(), &train, now, effects),
            };
            let timestamp = timestamps
                .iter()
                .find(|timestamp| timestamp.position == position);
            let time = timestamp.map_or(0, |_| self.hub.clock());
            let one = [(0, train)];
            match &sent.frames {
                Some(frames) => self.send_frames(frames),
                None => {
                    if let Some(state) = self.send_one(&one, backpressure.take(), rx_batch) {
                        *backpressure = Some(state);
                        *decision = Some(RuleDecision {
                            completion: sent.completion,
                        });
                        return Ok(ServeOutcome::Backpressure(state.deadline));
                    }
                    if self.hub.captures.any() {
                        self.captured(&GuestMover::new(), one.iter().map(|(_, train)| train));
                    }
                }
            }
            let written = timestamp.map_or(0, |timestamp| {
                timestamp.write(spans, time);
                TimestampSlot::LENGTH
            });
            match sent.completion {
                Some(fault) => {
                    if fault.is_error() {
                        counters.errors += 1;
                    } else {
                        counters.sent(&one[0].1);
                    }
                    lane.complete(ring, written, fault);
                }
                None => {
                    counters.sent(&one[0].1);
                    ring.complete(head, written);
                }
            }
            lane.return_due(ring, Some(armed), now);
        }
        Ok(ServeOutcome::More)
    }

    /// Asks rules about a command, and executes it unless they say otherwise. `None`: the answer was taken
    /// care of.
    pub(crate) fn execute_faulty(
        &self,
        pair: usize,
        request: &[u8],
        control: &mut ControlState,
        execute: impl FnOnce(&mut ControlState) -> Vec<u8>,
    ) -> Option<Vec<u8>> {
        let Some(armed) = self.faults.current(Direction::Command) else {
            return Some(execute(control));
        };
        let mut effects = Effects::default();
        let strike = lock(&self.transmit[pair])
            .commands
            .command(&armed, request, &mut effects);
        self.carry_out(effects);
        let Some(strike) = strike else {
            return Some(execute(control));
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
                    execute(control)
                } else {
                    Vec::new()
                };
                let now = self.hub.now();
                self.on_transmit_side(pair, |ring, _, commands| {
                    let length = answer(ring, &response);
                    commands.hold_answer(ring, length, strike, nanoseconds, now);
                });
                let due = lock(&self.transmit[pair]).commands.next_due(Some(&armed));
                self.follow(Direction::Command, pair as u16, due);
                None
            }
        }
    }

    /// What a rule asked to be done with the interrupt of a batch.
    pub(crate) fn interrupt(wanted: bool, effects: &mut Effects) -> bool {
        InterruptFault::apply(effects.interrupt.take(), wanted)
    }
}
