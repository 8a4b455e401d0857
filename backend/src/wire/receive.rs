//! The receiving end of a wire: from a batch of trains to the buffers of the queues that they are steered to.

use std::sync::atomic::Ordering;

use zcnic_device::{
    fault::{Direction, Effects},
    features::Feature,
    receive::{Annotation, ReceiveQueue},
    rss::Hash,
    steering::Verdict,
    train::Train,
};

use super::{Sent, Stuck, Way, intake::Intake};
use crate::{
    hub::Job,
    port::{Active, Blocked, FlowControl, Port, ReceiveSide, lock},
    ring::{
        mover::{GuestMover, Upcoming},
        place::Place,
        raw::{Span, prefetch},
        receive::ReceiveChains,
    },
};

/// Frames whose rules are sent for together, before the first of them is steered.
const RULES_AHEAD: usize = 16;

/// A train on its way to a queue.
pub(super) struct Outgoing {
    /// Which train of the batch it is.
    index: u32,
    queue: u16,
    hash: Option<Hash>,
}

/// A train that no queue gets.
pub(super) struct Refused {
    /// Of its chain in the batch.
    position: usize,
    frames: u64,
    /// A flow rule says so, not the address filter.
    by_rule: bool,
}

/// What goes for all frames of a batch.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    active: &'a Active,
    /// When it is.
    time: u64,
    /// How far the first one got, if it waited already.
    resumed: Option<Blocked>,
    flow_control: FlowControl,
}

impl Port {
    /// Receives a batch that waits for buffers. Returns how many of it are done with, and how far the next one
    /// got.
    pub(crate) fn receive_waiting(
        &self,
        batch: &[Sent<'_, '_>],
        resumed: Option<Blocked>,
        way: &mut Way,
    ) -> (usize, Option<Blocked>) {
        match self.receive(batch, resumed, FlowControl::Pause, way) {
            Some(Stuck { position, blocked }) => (position, Some(blocked)),
            None => (batch.len(), None),
        }
    }

    /// Steers a batch to queues and places it in their buffers; returns as [`send`](Self::send) does.
    pub(super) fn receive(
        &self,
        batch: &[Sent<'_, '_>],
        resumed: Option<Blocked>,
        flow_control: FlowControl,
        way: &mut Way,
    ) -> Option<Stuck> {
        let active = self.active();
        let mut outgoing = std::mem::take(&mut way.outgoing);
        let is_one_group = steer(&active, batch, &mut outgoing, &mut way.refused);
        if flow_control == FlowControl::Drop && !is_one_group {
            // Each receive ring is locked once; within a queue the order stays as sent. Where frames wait
            // it stays across queues, because those behind a waiting one were not sent at all.
            outgoing.sort_unstable_by_key(|outgoing| (outgoing.queue, outgoing.index));
        }
        let arrival = Arrival {
            active: &active,
            time: self.arrival(&active),
            resumed,
            flow_control,
        };
        let stuck = if is_one_group {
            self.receive_group(batch, &outgoing, arrival, way)
        } else {
            outgoing
                .chunk_by(|a, b| a.queue == b.queue)
                .find_map(|group| self.receive_group(batch, group, arrival, way))
        };
        way.outgoing = outgoing;
        // Those behind one that has to wait come again.
        let done = stuck.as_ref().map_or(usize::MAX, |stuck| stuck.position);
        for refused in way.refused.iter().filter(|refused| refused.position < done) {
            let counter = if refused.by_rule {
                &self.counters.rule_drop
            } else {
                &self.counters.filtered
            };
            counter.fetch_add(refused.frames, Ordering::Relaxed);
        }
        stuck
    }

    /// Delivers trains of a batch to one receive queue. Returns the first that has to wait.
    #[expect(clippy::too_many_lines, reason = "one batch, stage by stage")]
    fn receive_group(
        &self,
        batch: &[Sent<'_, '_>],
        group: &[Outgoing],
        arrival: Arrival<'_>,
        way: &mut Way,
    ) -> Option<Stuck> {
        let Arrival {
            active,
            time,
            flow_control,
            ..
        } = arrival;
        let queue = group.first()?.queue;
        let pair = usize::from(queue);
        let mut guard = lock(self.receive.get(pair)?);
        let ReceiveSide {
            transport,
            queue: device,
            lane,
            books,
            waited_for,
            stalled,
            releasing,
        } = &mut *guard;
        let usable = transport.is_enabled() && !active.suspended;
        let (ring, mut error) = match if usable { transport.ring() } else { Ok(None) } {
            Ok(ring) => (ring, None),
            Err(error) => (None, Some(error)),
        };
        let window = std::mem::take(&mut way.window);
        let upcoming = Upcoming::default();
        let mut chains = ReceiveChains::new(ring, active.max_chains, window)
            .announce(&upcoming)
            .watched_by(books.witness(|| self.hub.now()));
        chains.disable_kicks();
        let flows = self.flows.current();
        let armed = self.faults.current(Direction::Receive);
        let offloads = active.configuration.offloads;
        let mut effects = Effects::default();
        let mut intake = Intake {
            port: self,
            coalesces: offloads.has(Feature::Gro) || device.holds(),
            queue: &mut *device,
            lane: &mut *lane,
            waited_for,
            stalled,
            mover: GuestMover::with(&upcoming),
            chains: &mut chains,
            flows: &flows,
            armed: armed.as_deref(),
            flow_control,
            effects: &mut effects,
            delivered: 0,
        };
        let mut note = Annotation {
            queue,
            hash: None,
            offloads,
            time,
            vlan: None,
        };
        let mut stuck = None;
        for (number, outgoing) in group.iter().enumerate() {
            let (position, train) = &batch[outgoing.index as usize];
            if upcoming.is_worth()
                && let Some(next) = group.get(number + 1)
            {
                let (_, next) = &batch[next.index as usize];
                upcoming.source.set(payload_place(next));
            }
            note.hash = outgoing.hash;
            let resumed = arrival.resumed.filter(|_| *position == 0);
            if let Some(blocked) = intake.take(train, &note, resumed) {
                stuck = Some(Stuck {
                    position: *position,
                    blocked,
                });
                break;
            }
        }
        way.delivered += intake.delivered;
        device.settled(|held| flows.count(held.headers(), held.head(), queue, &held.delivered));
        self.follow_held(queue, device, releasing);
        let wanted = Self::interrupt(chains.publish(), &mut effects);
        let delay = active.configuration.moderation.receive;
        let put_off = wanted && delay.nanoseconds > 0 && chains.put_off(delay.chains);
        error = error.or(chains.error());
        let chain_error = chains.chain_error();
        way.window = chains.into_window();
        if put_off {
            self.interrupt_later(2 * pair, transport, delay);
        } else if wanted {
            way.interrupts.extend(transport.interrupt());
        }
        if let Some(error) = error {
            self.broken(2 * pair, transport, error);
        }
        if let Some(error) = chain_error {
            self.warn(format_args!("receive ring {}: {error}", 2 * pair));
        }
        let violations = books.violations();
        if armed.is_some() {
            let due = lane.next_due(armed.as_deref());
            self.follow(Direction::Receive, queue, due);
        }
        drop(guard);
        self.carry_out(effects);
        self.report_violations(pair, violations);
        stuck
    }

    /// Has a receive queue looked at again when something that it holds is due.
    fn follow_held(&self, queue: u16, device: &ReceiveQueue, releasing: &mut bool) {
        /// What is due already found no buffers, so it is not tried at once.
        const PAUSE: u64 = 1_000_000;
        if let (Some(due), false) = (device.release_at(), *releasing) {
            *releasing = true;
            let due = due.max(self.hub.now().saturating_add(PAUSE));
            self.hub.schedule(due, Job::Release(self.index, queue));
        }
    }

    /// Something that a receive queue holds may be due.
    pub(crate) fn release_held(&self, queue: u16) {
        let Some(side) = self.receive.get(usize::from(queue)) else {
            return;
        };
        let stalled = {
            let side = &mut *lock(side);
            side.releasing = false;
            side.stalled
        };
        let pauses = |(_, flow_control)| flow_control == FlowControl::Pause;
        let waits = !stalled && self.peer().is_some_and(pauses);
        let flows = self.flows.current();
        self.on_receive(queue, |faulty, _| {
            let device = &mut *faulty.queue;
            device.release(faulty.mover, faulty.ring, waits, faulty.now);
            device.settled(|held| flows.count(held.headers(), held.head(), queue, &held.delivered));
        });
        let side = &mut *lock(side);
        self.follow_held(queue, &side.queue, &mut side.releasing);
    }
}

/// Decides for each train of a batch which queue it goes to; says whether all go to the same.
fn steer(
    active: &Active,
    batch: &[Sent<'_, '_>],
    outgoing: &mut Vec<Outgoing>,
    refused: &mut Vec<Refused>,
) -> bool {
    let mut queues = [u16::MAX, 0];
    let steering = &active.configuration.steering;
    outgoing.clear();
    refused.clear();
    let mut candidates = [None; RULES_AHEAD];
    for (index, (position, train)) in batch.iter().enumerate() {
        if index.is_multiple_of(RULES_AHEAD) {
            for (candidate, (_, train)) in candidates.iter_mut().zip(&batch[index..]) {
                *candidate = steering.candidate(train.headers(), train.head());
                if let Some(address) = candidate.and_then(|candidate| candidate.address()) {
                    prefetch(address);
                }
            }
        }
        let candidate = candidates[index % RULES_AHEAD];
        let by_rule = match steering.steer_by(candidate, train.headers(), train.head()) {
            Verdict::Queue { queue, hash } => {
                let index = index as u32;
                queues = [queues[0].min(queue), queues[1].max(queue)];
                outgoing.push(Outgoing { index, queue, hash });
                continue;
            }
            Verdict::Filtered => false,
            Verdict::RuleDrop => true,
        };
        refused.push(Refused {
            position: *position,
            frames: train.segments() as u64,
            by_rule,
        });
    }
    let [lowest, highest] = queues;
    lowest >= highest
}

/// Where the payload of a train begins, more or less: in a span of its own if there are several.
fn payload_place(train: &Train<'_, [Span<'_>]>) -> Place {
    let payload = train.source().iter().take(2).next_back();
    payload.map(|span| span.place(0)).unwrap_or_default()
}
