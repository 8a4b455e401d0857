//! The ownership of receive buffers over time.
//!
//! A chain is *posted* when the driver makes it available and *returned* when the device puts it
//! into the used ring, filled or unused. In between the device owns its buffers; before and after,
//! the driver. The ledger of a queue records both events and nothing else, and reports a
//! [`Violation`] if they contradict each other. Buffers are identified by guest-physical addresses,
//! which are never dereferenced here.
//!
//! Its memory is bounded. Of the buffers with the driver the oldest records are evicted first, and all
//! records of a port share a [budget](crate::budget): a buffer that there is no room for is not
//! watched, and counts as forgotten.

mod histogram;
pub mod sanitize;
mod violation;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::budget::{Budget, Charge};

pub use self::{
    histogram::{BUCKETS, Histogram},
    violation::{GuestRange, Violation},
};

/// The most buffers that a ledger records, but for those that the device owns.
pub const MAX_BUFFERS: usize = 65536;

/// Bytes that the records of all ledgers of a port may take.
pub const PORT_BYTES: usize = 256 << 20;

/// Bytes that the record of a buffer takes, approximately, with its places in all maps.
const RECORD_COST: usize = 512;

/// The most violations that are kept until [`Ledger::take_violations`]. Further ones are only
/// counted.
pub const MAX_VIOLATIONS: usize = 256;

/// Events recorded per buffer.
pub const HISTORY: usize = 8;

/// The amount of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    #[default]
    Off,
    /// Numbers of chains posted and returned.
    Counting,
    /// Every buffer.
    Full,
}

/// The settings of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The amount of records.
    pub mode: Mode,
    /// Whether buffers are poisoned when posted and checked when returned; needs mode
    /// [`Full`](Mode::Full).
    pub sanitize: bool,
    /// A filled buffer that the driver keeps for longer than this many nanoseconds is a violation;
    /// needs mode [`Full`](Mode::Full).
    pub overdue: Option<u64>,
}

/// A recorded transfer of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferEvent {
    /// The time, in nanoseconds.
    pub time: u64,
    /// Head of the chain that the buffer was in.
    pub head: u16,
    /// The kind of transfer.
    pub transfer: Transfer,
}

/// Transfers of a buffer's ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// From the driver to the device.
    Posted,
    /// From the device to the driver, in a chain with data.
    Filled,
    /// From the device to the driver, in a chain without data.
    Unused,
}

/// Statistics of one queue. Those of buffers are 0 unless the mode is [`Full`](Mode::Full).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Chains posted.
    pub posted: u64,
    /// Chains returned with data.
    pub filled: u64,
    /// Chains returned without data.
    pub unused: u64,
    /// Chains that the device owns.
    pub with_device: u64,
    /// The most chains that it ever owned.
    pub with_device_most: u64,
    /// Filled buffers that the driver has not posted again.
    pub out: u64,
    /// The maximum of `out`.
    pub out_most: u64,
    /// Buffers whose record was evicted.
    pub forgotten: u64,
    /// Violations.
    pub violations: u64,
    /// Nanoseconds for which the driver keeps a filled buffer.
    pub held: Histogram,
    /// Number of other buffers posted before a filled one is posted again.
    pub distance: Histogram,
}

/// The balance of a queue when it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Chains posted since the queue started.
    pub posted: u64,
    /// Chains returned since then, with or without data.
    pub returned: u64,
    /// Violations since then.
    pub violations: u64,
    /// Filled buffers that the driver had not posted again; it may keep them.
    pub out: u64,
}

impl StopReport {
    /// Whether every chain was returned and there was no violation.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.posted == self.returned && self.violations == 0
    }
}

#[derive(Debug)]
struct BufferRecord {
    length: u32,
    since: u64,
    /// The number of buffers posted when it was returned.
    order: u64,
    filled: bool,
    reported: bool,
    history: VecDeque<BufferEvent>,
    _charge: Charge,
}

/// The ledger of one receive queue. Times are nanoseconds of the caller's clock.
///
/// ```
/// use zcnic_device::ledger::{GuestRange, Ledger, Mode, Settings, Violation};
///
/// let mut ledger = Ledger::default();
/// ledger.configure(Settings { mode: Mode::Full, ..Settings::default() });
///
/// let buffer = GuestRange { address: 0x1000, length: 2048 };
/// ledger.posted(0, Some(&[buffer]), 10);
/// ledger.posted(1, Some(&[buffer]), 20);
/// assert_eq!(
///     ledger.take_violations(),
///     [Violation::PostedTwice { range: buffer, head: 1, other: 0 }]
/// );
/// ```
#[derive(Debug, Default)]
pub struct Ledger {
    settings: Settings,
    statistics: Statistics,
    /// Chains posted and returned, and violations, when the queue last stopped.
    base: (u64, u64, u64),
    /// Chains that the device owns and their buffers.
    chains: BTreeMap<u16, Vec<GuestRange>>,
    /// Buffers that the device owns, which do not overlap, by address: end and chain.
    owned: BTreeMap<u64, (u64, u16)>,
    /// All known buffers by address.
    buffers: BTreeMap<u64, BufferRecord>,
    /// Buffers of the driver, by the time of their return.
    idle: BTreeSet<(u64, u64)>,
    /// Buffers posted.
    order: u64,
    violations: Vec<Violation>,
    budget: Budget,
}

impl Ledger {
    /// A ledger that is off, and whose records are charged to `budget`.
    #[must_use]
    pub fn charged_to(budget: &Budget) -> Self {
        Self {
            budget: budget.clone(),
            ..Self::default()
        }
    }

    /// Restarts the ledger with these settings. It does not know chains that the device owns at
    /// that time, so the queue should be stopped.
    pub fn configure(&mut self, settings: Settings) {
        *self = Self {
            settings,
            ..Self::charged_to(&self.budget)
        };
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The statistics.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Takes the violations since the last call; only the oldest ones if there were too many.
    pub fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }

    /// Whether the device owns chain `head`, according to the ledger.
    #[must_use]
    pub fn has(&self, head: u16) -> bool {
        self.chains.contains_key(&head)
    }

    /// The recorded events of the buffer that contains `address`, oldest first.
    #[must_use]
    pub fn history(&self, address: u64) -> Option<(GuestRange, Vec<BufferEvent>)> {
        let (&start, buffer) = self.buffers.range(..=address).next_back()?;
        let range = GuestRange {
            address: start,
            length: buffer.length,
        };
        (address < range.end()).then(|| (range, buffer.history.iter().copied().collect()))
    }

    /// All known buffers from `address` on, by address, with their recorded events.
    pub fn buffers(
        &self,
        address: u64,
    ) -> impl Iterator<Item = (GuestRange, impl Iterator<Item = BufferEvent> + '_)> + '_ {
        self.buffers.range(address..).map(|(&address, buffer)| {
            let length = buffer.length;
            (
                GuestRange { address, length },
                buffer.history.iter().copied(),
            )
        })
    }

    /// Counts chains: `posted` made available by the driver, `filled` and `unused` returned by the
    /// device, `last` being the last of these. A counting ledger does not need the others.
    pub fn count(&mut self, posted: u16, filled: u32, unused: u32, last: u16) {
        let statistics = &mut self.statistics;
        statistics.posted += u64::from(posted);
        statistics.filled += u64::from(filled);
        statistics.unused += u64::from(unused);
        let owned = statistics.with_device + u64::from(posted);
        let left = owned.checked_sub(u64::from(filled) + u64::from(unused));
        statistics.with_device = left.unwrap_or(0);
        statistics.with_device_most = statistics.with_device_most.max(statistics.with_device);
        if left.is_none() {
            self.violate(Violation::NotPosted { head: last });
        }
    }

    /// Records a chain that the driver made available; `None`: its descriptors are unusable.
    pub fn posted(&mut self, head: u16, ranges: Option<&[GuestRange]>, now: u64) {
        if self.settings.mode == Mode::Off {
            return;
        }
        self.count(1, 0, 0, head);
        if self.settings.mode == Mode::Counting {
            return;
        }
        if ranges.is_none() {
            self.violate(Violation::Unusable { head });
        }
        if let Some(lost) = self.chains.remove(&head) {
            self.violate(Violation::ChainPostedTwice { head });
            for range in lost {
                self.disown(range, head);
            }
        }
        let ranges = ranges.unwrap_or_default().iter().copied();
        let owned = ranges.filter(|range| self.own(*range, head, now)).collect();
        self.chains.insert(head, owned);
    }

    /// Begins the device's ownership of `range`; returns `false` if it is not watched.
    fn own(&mut self, range: GuestRange, head: u16, now: u64) -> bool {
        let overlapping = self.owned.range(..range.end()).next_back();
        if let Some((&address, &(end, other))) =
            overlapping.filter(|(_, (end, _))| *end > range.address)
        {
            let with = GuestRange {
                address,
                length: (end - address) as u32,
            };
            self.violate(if with == range {
                Violation::PostedTwice { range, head, other }
            } else {
                Violation::Overlap {
                    range,
                    head,
                    with,
                    other,
                }
            });
            return false;
        }
        // Other boundaries in the same memory make other buffers.
        while let Some((&address, _)) =
            self.buffers
                .range(..range.end())
                .next_back()
                .filter(|(address, buffer)| {
                    let known = GuestRange {
                        address: **address,
                        length: buffer.length,
                    };
                    known.end() > range.address && known != range
                })
        {
            self.evict(address);
        }
        let mut charge = None;
        if !self.buffers.contains_key(&range.address) {
            charge = self.charge();
            if charge.is_none() {
                self.statistics.forgotten += 1;
                return false;
            }
        }
        self.owned.insert(range.address, (range.end(), head));
        self.order += 1;
        if let Some(buffer) = self.buffers.get_mut(&range.address) {
            self.idle.remove(&(buffer.since, range.address));
            if std::mem::take(&mut buffer.filled) {
                self.statistics.out -= 1;
                self.statistics.held.add(now.saturating_sub(buffer.since));
                // The buffer itself does not count.
                let between = self.order - buffer.order - 1;
                self.statistics.distance.add(between);
            }
        }
        if let Some(charge) = charge {
            let record = BufferRecord {
                length: range.length,
                since: now,
                order: 0,
                filled: false,
                reported: false,
                history: VecDeque::with_capacity(HISTORY),
                _charge: charge,
            };
            self.buffers.insert(range.address, record);
        }
        if let Some(buffer) = self.buffers.get_mut(&range.address) {
            buffer.reported = false;
            buffer.remember(BufferEvent {
                time: now,
                head,
                transfer: Transfer::Posted,
            });
        }
        if self.buffers.len() > MAX_BUFFERS
            && let Some(&(_, address)) = self.idle.first()
        {
            self.evict(address);
            self.statistics.forgotten += 1;
        }
        true
    }

    /// Room for one more record, if need be that of the oldest buffer of the driver.
    fn charge(&mut self) -> Option<Charge> {
        loop {
            if let Some(charge) = self.budget.charge(RECORD_COST) {
                return Some(charge);
            }
            let (_, oldest) = *self.idle.first()?;
            self.evict(oldest);
            self.statistics.forgotten += 1;
        }
    }

    /// Ends the device's ownership of `range` as a part of chain `head`; returns whether it was the
    /// owner.
    fn disown(&mut self, range: GuestRange, head: u16) -> bool {
        let owned = self.owned.get(&range.address) == Some(&(range.end(), head));
        if owned {
            self.owned.remove(&range.address);
        }
        owned
    }

    fn evict(&mut self, address: u64) {
        if let Some(buffer) = self.buffers.remove(&address) {
            self.idle.remove(&(buffer.since, address));
            self.statistics.out -= u64::from(buffer.filled);
        }
    }

    /// Records that the device returns a chain with this used length.
    pub fn returned(&mut self, head: u16, written: u32, now: u64) {
        let filled = written > 0;
        let ranges = match self.settings.mode {
            Mode::Off => return,
            Mode::Counting => return self.count(0, filled.into(), (!filled).into(), head),
            Mode::Full => match self.chains.remove(&head) {
                Some(ranges) => ranges,
                None => return self.violate(Violation::NotPosted { head }),
            },
        };
        self.count(0, filled.into(), (!filled).into(), head);
        for range in ranges {
            if !self.disown(range, head) {
                continue;
            }
            let Some(buffer) = self.buffers.get_mut(&range.address) else {
                continue;
            };
            buffer.since = now;
            buffer.order = self.order;
            buffer.filled = filled;
            buffer.remember(BufferEvent {
                time: now,
                head,
                transfer: if filled {
                    Transfer::Filled
                } else {
                    Transfer::Unused
                },
            });
            self.idle.insert((now, range.address));
            self.statistics.out += u64::from(filled);
            self.statistics.out_most = self.statistics.out_most.max(self.statistics.out);
        }
    }

    /// Records that the guest wrote to byte `offset` of a buffer that the device owned with chain
    /// `head`.
    pub fn written(&mut self, range: GuestRange, head: u16, offset: usize) {
        let offset = offset as u32;
        self.violate(Violation::Written {
            range,
            head,
            offset,
        });
    }

    /// Checks for buffers that the driver has kept for too long, and reports each once.
    pub fn check_overdue(&mut self, now: u64) {
        let Some(limit) = self.settings.overdue else {
            return;
        };
        let late = now.saturating_sub(limit);
        let mut overdue = Vec::new();
        for &(since, address) in self.idle.range(..(late, 0)) {
            if let Some(buffer) = self.buffers.get_mut(&address)
                && buffer.filled
                && !std::mem::replace(&mut buffer.reported, true)
            {
                let length = buffer.length;
                overdue.push(Violation::Overdue {
                    range: GuestRange { address, length },
                    since,
                });
            }
        }
        for violation in overdue {
            self.violate(violation);
        }
    }

    /// Records a stop of the queue, after the last chain was returned.
    pub fn stop(&mut self, now: u64) -> StopReport {
        self.check_overdue(now);
        let heads: Vec<u16> = self.chains.keys().copied().collect();
        for &head in &heads {
            self.violate(Violation::NotReturned { head });
        }
        let statistics = &self.statistics;
        let (posted, returned, violations) = self.base;
        let posted = statistics.posted - posted;
        let returned = statistics.filled + statistics.unused - returned;
        if posted != returned {
            self.violate(Violation::Count { posted, returned });
        }
        self.chains.clear();
        self.owned.clear();
        let statistics = &mut self.statistics;
        statistics.with_device = 0;
        let report = StopReport {
            posted,
            returned,
            violations: statistics.violations - violations,
            out: statistics.out,
        };
        self.base = (
            statistics.posted,
            statistics.filled + statistics.unused,
            statistics.violations,
        );
        report
    }

    /// Restarts the ledger because the ring is gone with every chain: the virtual machine was reset
    /// or disconnected.
    pub fn lost(&mut self) {
        self.configure(self.settings);
    }

    fn violate(&mut self, violation: Violation) {
        self.statistics.violations += 1;
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation);
        }
    }
}

impl BufferRecord {
    fn remember(&mut self, event: BufferEvent) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(event);
    }
}

#[cfg(test)]
mod tests;
