//! The data path: from a transmit ring over the cable to the receive rings of its other end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use vm_memory::VolatileSlice;
use zcnic_device::{
    receive::{Annotation, Delivered},
    rss::Hash,
    steering::Verdict,
    train::Train,
    transmit::{TransmitFormat, parse},
};

use crate::{
    port::{Active, Blocked, FlowControl, Port, ReceiveSide, Served, TransmitSide, lock},
    ring::{
        RingError, chain::walk, mover::GuestMover, receive::ReceiveChains, split::SplitRing,
        transport::Interrupt,
    },
};

/// Chains taken from a ring at once.
const BATCH: u16 = 64;

/// How long a frame waits for receive buffers on a cable with `pause`: long enough for a guest on a busy
/// host to post some, short enough that a receiver which died does not hang its sender.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);

/// Attempts to deliver a frame while the driver keeps posting buffers that do not suffice.
const ATTEMPTS: usize = 4;

/// A train on its way to a queue.
struct Outgoing<'b, 'a, 's> {
    /// Which chain of the batch it is.
    position: usize,
    train: &'b Train<'a, [VolatileSlice<'s>]>,
    queue: u16,
    hash: Option<Hash>,
    /// The first segment that was not delivered yet.
    segment: usize,
    /// When it is given up, if it waited already.
    deadline: Option<Instant>,
}

/// A train that has to wait for receive buffers.
struct Stuck {
    position: usize,
    blocked: Blocked,
}

impl Port {
    /// Serves a bounded batch of a transmit ring.
    pub(crate) fn serve(&self, pair: usize) -> Served {
        let mut interrupts = Vec::new();
        let served = {
            let mut side = lock(&self.transmit[pair]);
            match self.serve_locked(pair, &mut side, &mut interrupts) {
                Ok(step) => step,
                Err(error) => {
                    self.broken(2 * pair + 1, &mut side.transport, error);
                    Step::Served(Served::Idle)
                }
            }
        };
        for interrupt in interrupts {
            interrupt.raise();
        }
        match served {
            Step::Served(served) => served,
            Step::Control => {
                self.serve_control(pair);
                Served::More
            }
        }
    }

    fn serve_locked(
        &self,
        pair: usize,
        side: &mut TransmitSide,
        interrupts: &mut Vec<Interrupt>,
    ) -> Result<Step, RingError> {
        let active = self.active();
        let TransmitSide {
            transport,
            running,
            counters,
            blocked,
        } = side;
        let Some(memory) = transport.running() else {
            return Ok(Step::Served(Served::Idle));
        };
        let enabled = transport.is_enabled();
        let format = active.configuration.transmit_format;
        let is_command_ring = active.command_pair == Some(pair);
        // A stopped transmit queue keeps its chains; it is looked at again when it starts.
        let parked = format.is_some() && !*running && !is_command_ring;
        if enabled && (active.suspended || parked) {
            return Ok(Step::Served(Served::Idle));
        }

        let mut ring = SplitRing::new(&transport.setup, &memory, &mut transport.indices)?;
        ring.disable_kicks()?;
        let mut available = ring.available(BATCH)?.min(BATCH);
        if available == 0 {
            let more = ring.enable_kicks()?;
            return Ok(Step::Served(if more { Served::More } else { Served::Idle }));
        }
        let mut slices = Vec::new();
        let mut chains = Vec::with_capacity(usize::from(available));
        for ahead in 0..available {
            let head = ring.head(ahead)?;
            let chain = if enabled {
                walk(&ring, head, &mut slices)
            } else {
                continue;
            };
            // Control takes one chain at a time, with the ring's lock released.
            let frame = chain
                .as_ref()
                .map_or(true, |chain| chain.writable.is_empty());
            if is_command_ring || format.is_none() || !frame {
                if ahead == 0 {
                    return Ok(Step::Control);
                }
                available = ahead;
                break;
            }
            chains.push(chain);
        }

        let mut done = usize::from(available);
        let mut deadline = None;
        if let (true, Some(format)) = (enabled, format) {
            let mut outgoing = Vec::with_capacity(chains.len());
            for (position, chain) in chains.iter().enumerate() {
                let parsed = chain
                    .as_ref()
                    .ok()
                    .map(|chain| &slices[chain.readable.clone()])
                    .map(|source| parse_train(source, format, &active));
                match parsed {
                    Some(Ok(train)) => outgoing.push((position, train)),
                    _ => counters.errors += 1,
                }
            }
            let resumed = blocked.take();
            let stuck = self.send(&mut outgoing, resumed, interrupts);
            if let Some(Stuck {
                position,
                blocked: state,
            }) = stuck
            {
                done = position;
                deadline = Some(state.deadline);
                *blocked = Some(state);
            }
            // What is stuck is counted when it is done with.
            for (_, train) in outgoing.iter().filter(|(position, _)| *position < done) {
                counters.sent(train);
            }
        }
        for _ in 0..done {
            let head = ring.head(0)?;
            ring.complete(head, 0)?;
        }
        if ring.publish()? {
            interrupts.extend(transport.interrupt());
        }
        Ok(Step::Served(deadline.map_or(Served::More, Served::Blocked)))
    }

    /// Sends a batch. Returns the first train that has to wait, on a cable where frames wait; those behind
    /// it were not sent then.
    fn send<'s>(
        &self,
        batch: &mut [(usize, Train<'_, [VolatileSlice<'s>]>)],
        resumed: Option<Blocked>,
        interrupts: &mut Vec<Interrupt>,
    ) -> Option<Stuck> {
        let carrier = self.peer().filter(|(peer, _)| peer.is_connected());
        let Some((peer, flow_control)) = carrier else {
            let frames: usize = batch.iter().map(|(_, train)| train.segments()).sum();
            self.counters
                .no_carrier
                .fetch_add(frames as u64, Ordering::Relaxed);
            return None;
        };
        let active = peer.active();
        let mut outgoing = Vec::with_capacity(batch.len());
        for (position, train) in batch.iter() {
            let (mut segment, mut deadline) = (0, None);
            if let (0, Some(resumed)) = (*position, resumed) {
                segment = resumed.segment.min(train.segments());
                deadline = Some(resumed.deadline);
            }
            match active
                .configuration
                .steering
                .steer(train.headers(), train.head())
            {
                Verdict::Queue { queue, hash } => {
                    outgoing.push(Outgoing {
                        position: *position,
                        train,
                        queue,
                        hash,
                        segment,
                        deadline,
                    });
                }
                Verdict::Filtered => {
                    peer.counters
                        .filtered
                        .fetch_add(train.segments() as u64, Ordering::Relaxed);
                }
                Verdict::RuleDrop => {
                    peer.counters
                        .rule_drop
                        .fetch_add(train.segments() as u64, Ordering::Relaxed);
                }
            }
        }
        if flow_control == FlowControl::Drop {
            // Each receive ring is locked once; within a queue the order stays as sent. Where frames wait
            // it stays across queues, because those behind a waiting one were not sent at all.
            outgoing.sort_by_key(|outgoing| outgoing.queue);
        }
        outgoing
            .chunk_by_mut(|a, b| a.queue == b.queue)
            .find_map(|group| peer.receive_group(group, &active, flow_control, interrupts))
    }

    /// Delivers trains to one receive queue. Returns the first that has to wait.
    fn receive_group(
        &self,
        group: &mut [Outgoing<'_, '_, '_>],
        active: &Active,
        flow_control: FlowControl,
        interrupts: &mut Vec<Interrupt>,
    ) -> Option<Stuck> {
        let queue = group.first()?.queue;
        let pair = usize::from(queue);
        let mut guard = lock(self.receive.get(pair)?);
        let ReceiveSide {
            transport,
            queue: device,
            waited_for,
            stalled,
        } = &mut *guard;
        let usable = transport.is_enabled() && !active.suspended;
        let memory = transport.running().filter(|_| usable);
        let ring = memory
            .as_ref()
            .map(|memory| SplitRing::new(&transport.setup, memory, &mut transport.indices))
            .transpose();
        let mut error = ring.as_ref().err().copied();
        let mut chains = ReceiveChains::new(ring.ok().flatten(), active.max_chains);
        let note = Annotation {
            queue,
            hash: None,
            offloads: active.configuration.offloads,
        };
        let flows = self.flows.current();
        let mut stuck = None;
        for outgoing in group {
            let note = Annotation {
                hash: outgoing.hash,
                ..note
            };
            let train = outgoing.train;
            let mut total = Delivered::default();
            for attempt in 1.. {
                let mover = GuestMover::new();
                let now = device.deliver(&mover, &mut chains, train, outgoing.segment, &note);
                total.frames += now.frames;
                total.split += now.split;
                total.unsplit += now.unsplit;
                total.dropped += now.dropped;
                if now.frames > 0 {
                    *stalled = false;
                    outgoing.deadline = None;
                }
                let Some(at) = now.blocked_at else {
                    break;
                };
                outgoing.segment = at;
                let waits = flow_control == FlowControl::Pause && !*stalled;
                let deadline = outgoing
                    .deadline
                    .unwrap_or_else(|| Instant::now() + PAUSE_LIMIT);
                if !waits || deadline <= Instant::now() {
                    outgoing.segment = device.drop_blocked(train, at);
                    let lost = outgoing.segment - at;
                    total.dropped += lost as u32;
                    if waits {
                        *stalled = true;
                        self.counters
                            .pause_timeout
                            .fetch_add(lost as u64, Ordering::Relaxed);
                    }
                    if outgoing.segment < train.segments() {
                        continue;
                    }
                    break;
                }
                // Wait for a kick, unless there is no need to any more.
                *waited_for = true;
                if !chains.enable_kicks() || attempt == ATTEMPTS {
                    let blocked = Blocked {
                        segment: at,
                        deadline,
                    };
                    stuck = Some(Stuck {
                        position: outgoing.position,
                        blocked,
                    });
                    break;
                }
            }
            flows.count(train.headers(), train.head(), queue, &total);
            if stuck.is_some() {
                break;
            }
        }
        let wanted = chains.publish();
        error = error.or(chains.error());
        let chain_error = chains.chain_error();
        drop(chains);
        if wanted {
            interrupts.extend(transport.interrupt());
        }
        if let Some(error) = error {
            self.broken(2 * pair, transport, error);
        }
        if let Some(error) = chain_error {
            self.warn(format_args!("receive ring {}: {error}", 2 * pair));
        }
        stuck
    }
}

/// What is to be done after the ring is unlocked.
enum Step {
    Served(Served),
    Control,
}

fn parse_train<'a, 's>(
    source: &'a [VolatileSlice<'s>],
    format: TransmitFormat,
    active: &Arc<Active>,
) -> Result<Train<'a, [VolatileSlice<'s>]>, zcnic_device::transmit::TransmitError> {
    parse(
        &GuestMover::<'s, 's>::new(),
        source,
        format,
        active.configuration.features,
    )
}
