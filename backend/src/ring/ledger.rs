//! The ledger of a receive ring, and the recorder that feeds it.

use std::{collections::VecDeque, marker::PhantomData};

use zcnic_ctl::protocol::event;
use zcnic_device::{
    budget::Budget,
    ledger::{
        self, BufferEvent, GuestRange, Ledger, Settings, StopReport, Violation,
        sanitize::{Inspect, intact, poison},
    },
};

use crate::{
    protocol::buffer_to_protocol,
    ring::raw::{Memory, Span},
};

/// The violations that are kept for clients that ask later.
const RECENT: usize = 64;

/// A violation with the lives of its buffers.
#[derive(Clone, Debug)]
pub(crate) struct FoundViolation {
    pub(crate) violation: Violation,
    /// When it was found, in nanoseconds.
    pub(crate) time: u64,
    /// The buffers that it names, with their last events.
    pub(crate) buffers: Vec<(GuestRange, Vec<BufferEvent>)>,
}

/// The ledger of one receive ring, and how far it was recorded.
#[derive(Debug, Default)]
pub(crate) struct LedgerState {
    ledger: Ledger,
    /// Entry of the available ring up to which chains were recorded; `None`: none was yet.
    recorded: Option<u16>,
    /// The report of the queue's last stop.
    last_stop: Option<StopReport>,
    /// The last violations, oldest first.
    recent: VecDeque<FoundViolation>,
}

impl LedgerState {
    /// A ledger that records nothing yet, and whose records are charged to `budget`.
    pub(crate) fn new(budget: &Budget) -> Self {
        Self {
            ledger: Ledger::charged_to(budget),
            ..Self::default()
        }
    }

    /// Starts from scratch with these settings.
    pub(crate) fn configure(&mut self, settings: Settings) {
        let mut ledger = std::mem::take(&mut self.ledger);
        ledger.configure(settings);
        *self = Self {
            ledger,
            ..Self::default()
        };
    }

    /// Starts from scratch: the ring is gone, or is about to be set up again.
    pub(crate) fn reset(&mut self) {
        self.configure(self.ledger.settings());
    }

    pub(crate) fn settings(&self) -> Settings {
        self.ledger.settings()
    }

    /// The recorder of a locked ring, if the ledger is on. `now` returns nanoseconds.
    pub(crate) fn recorder(&mut self, now: impl FnOnce() -> u64) -> Option<LedgerRecorder<'_>> {
        let mode = self.ledger.settings().mode;
        let now = match mode {
            ledger::Mode::Off => return None,
            // It keeps no times.
            ledger::Mode::Counting => 0,
            ledger::Mode::Full => now(),
        };
        let inside = mode == ledger::Mode::Full;
        Some(LedgerRecorder {
            state: self,
            now,
            inside,
            counted: Counted::default(),
        })
    }

    /// Closes the ledger when the queue has stopped and all chains are returned; `None`: it is off.
    pub(crate) fn stop(&mut self, now: u64) -> Option<StopReport> {
        if self.ledger.settings().mode == ledger::Mode::Off {
            return None;
        }
        self.last_stop = Some(self.ledger.stop(now));
        self.last_stop
    }

    /// The report of the last [`stop`](Self::stop).
    pub(crate) fn last_stop(&self) -> Option<StopReport> {
        self.last_stop
    }

    /// Takes the violations that were found since the last call. `now` returns nanoseconds.
    #[inline]
    pub(crate) fn violations(&mut self, now: impl FnOnce() -> u64) -> Vec<FoundViolation> {
        let violations = self.ledger.take_violations();
        if violations.is_empty() {
            Vec::new()
        } else {
            self.found(violations, now())
        }
    }

    #[cold]
    fn found(&mut self, violations: Vec<Violation>, time: u64) -> Vec<FoundViolation> {
        let found = violations.into_iter().map(|violation| FoundViolation {
            violation,
            time,
            buffers: violation
                .ranges()
                .filter_map(|range| self.ledger.history(range.address))
                .collect(),
        });
        let found: Vec<_> = found.collect();
        self.recent.extend(found.iter().cloned());
        let old = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..old);
        found
    }

    /// The last violations, oldest first.
    pub(crate) fn recent(&self) -> impl Iterator<Item = &FoundViolation> {
        self.recent.iter()
    }

    /// Looks for buffers that are overdue at `now`, and returns the ledger for its figures.
    pub(crate) fn checked(&mut self, now: u64) -> &Ledger {
        self.ledger.check_overdue(now);
        &self.ledger
    }

    /// The ledger, for its history.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// A violation of a receive queue, as clients get it.
pub(crate) fn violation_to_protocol(
    port: &str,
    queue: u16,
    found: &FoundViolation,
) -> event::Violation {
    let buffers = found.buffers.iter();
    event::Violation {
        port: port.to_owned(),
        queue,
        kind: found.violation.name().into(),
        desc: found.violation.to_string(),
        time: found.time,
        buffers: buffers
            .map(|(range, events)| buffer_to_protocol(*range, events.iter().copied()))
            .collect(),
    }
}

/// Records operations of a locked ring in its ledger.
pub(crate) struct LedgerRecorder<'r> {
    state: &'r mut LedgerState,
    now: u64,
    /// The ledger keeps each chain, not only counts.
    inside: bool,
    counted: Counted,
}

/// Returned chains that are not recorded yet.
#[derive(Default)]
struct Counted {
    filled: u32,
    unused: u32,
    last: u16,
}

impl LedgerRecorder<'_> {
    /// The first entry of the available ring that is not recorded yet; `next` is the next to take.
    pub(crate) fn recorded_until(&self, next: u16) -> u16 {
        self.state.recorded.unwrap_or(next)
    }

    /// Whether the ledger keeps each chain, not only counts.
    #[inline]
    pub(crate) fn looks_inside(&self) -> bool {
        self.inside
    }

    /// Records the number of chains that were posted before `entry`. `next` is the next one to
    /// take.
    pub(crate) fn count_posted(&mut self, next: u16, entry: u16) {
        // A ring that was not looked at yet knows fewer chains than were recorded. The two are less
        // than the ring's size apart.
        let chains = entry.wrapping_sub(self.recorded_until(next)).cast_signed();
        if let Ok(chains @ 1..) = u16::try_from(chains) {
            self.state.recorded = Some(entry);
            self.count(chains);
        } else {
            self.state.recorded.get_or_insert(next);
        }
    }

    fn count(&mut self, posted: u16) {
        let Counted {
            filled,
            unused,
            last,
        } = std::mem::take(&mut self.counted);
        if posted > 0 || filled > 0 || unused > 0 {
            self.state.ledger.count(posted, filled, unused, last);
        }
    }

    /// Records a posted chain, in `entry` of the available ring; `targets` is `None` if it is
    /// invalid.
    pub(crate) fn posted(
        &mut self,
        entry: u16,
        head: u16,
        memory: &Memory,
        targets: Option<&[Span<'_>]>,
    ) {
        self.state.recorded = Some(entry.wrapping_add(1));
        let spans: Option<Vec<GuestRange>> =
            targets.map(|targets| targets.iter().map(|target| span(memory, target)).collect());
        self.state.ledger.posted(head, spans.as_deref(), self.now);
        if self.state.ledger.settings().sanitize {
            for (target, span) in targets
                .unwrap_or_default()
                .iter()
                .zip(spans.unwrap_or_default())
            {
                poison(&Slices(PhantomData), target, span.address);
            }
        }
    }

    /// Checks the poison of a chain that the device is about to use.
    pub(crate) fn used(&mut self, head: u16, memory: &Memory, targets: &[Span<'_>]) {
        if !self.state.ledger.settings().sanitize || !self.state.ledger.has(head) {
            return;
        }
        for target in targets {
            let span = span(memory, target);
            if let Some(offset) = intact(&Slices(PhantomData), target, span.address) {
                self.state.ledger.written(span, head, offset);
                // Poisoned again, so that it is reported once if the chain is not used after all.
                poison(&Slices(PhantomData), target, span.address);
            }
        }
    }

    /// Records a chain that the device returned.
    #[inline]
    pub(crate) fn returned(&mut self, head: u16, length: u32) {
        if self.inside {
            self.state.ledger.returned(head, length, self.now);
        } else {
            self.counted.filled += u32::from(length > 0);
            self.counted.unused += u32::from(length == 0);
            self.counted.last = head;
        }
    }
}

impl Drop for LedgerRecorder<'_> {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// A span by its guest-physical address.
fn span(memory: &Memory, span: &Span<'_>) -> GuestRange {
    GuestRange {
        address: memory.guest_address(span).unwrap_or(u64::MAX),
        length: span.len() as u32,
    }
}

/// Access to buffers under the lock of their ring.
struct Slices<'m>(PhantomData<Span<'m>>);

impl<'m> Inspect for Slices<'m> {
    type Target = Span<'m>;

    fn length(&self, target: &Self::Target) -> usize {
        target.len()
    }

    fn read(&self, target: &Self::Target, offset: usize, into: &mut [u8]) {
        target.read(offset, into);
    }

    fn write(&self, target: &Self::Target, offset: usize, bytes: &[u8]) {
        target.write(offset, bytes);
    }
}
