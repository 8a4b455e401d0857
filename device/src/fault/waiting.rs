//! Entries of a lane that wait for a deadline.

use super::{Armed, RuleId};

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// At this time, in nanoseconds.
    At(u64),
    /// When the lane has seen this many frames.
    Frames(u64),
    /// When the rule is removed.
    Removal,
    /// When the queue stops.
    Stop,
}

/// The time and the number of frames that a lane has seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: u64,
    pub(super) presented: u64,
}

#[derive(Debug)]
struct Entry<T> {
    rule: RuleId,
    deadline: Deadline,
    value: T,
}

/// Entries that wait, each for a deadline and at most until its rule is removed.
///
/// They are looked at only when one of them can be due, because a lane asks for each segment of a
/// train and may hold thousands.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    entries: Vec<Entry<T>>,
    /// The earliest time and the least number of frames that an entry waits for.
    soonest: [u64; 2],
    /// The version of the rules that all entries were compared with; `None`: no rules.
    version: Option<Option<u64>>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            soonest: [u64::MAX; 2],
            version: None,
        }
    }
}

fn is_gone(armed: Option<&Armed>, rule: RuleId) -> bool {
    armed.is_none_or(|armed| !armed.has(rule))
}

impl<T> Waiting<T> {
    /// Adds an entry of a rule that there is.
    pub(super) fn push(&mut self, rule: RuleId, deadline: Deadline, value: T) {
        self.note(deadline);
        self.entries.push(Entry {
            rule,
            deadline,
            value,
        });
    }

    fn note(&mut self, deadline: Deadline) {
        let [time, frames] = &mut self.soonest;
        match deadline {
            Deadline::At(at) => *time = at.min(*time),
            Deadline::Frames(count) => *frames = count.min(*frames),
            Deadline::Removal | Deadline::Stop => {}
        }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The values of all entries.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// Takes all entries.
    pub(super) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(self)
            .entries
            .into_iter()
            .map(|entry| entry.value)
    }

    /// Takes the entries that are due at `moment`, or whose rule `armed` does not have.
    pub(super) fn take_due(
        &mut self,
        armed: Option<&Armed>,
        Moment { now, presented }: Moment,
    ) -> Vec<(Deadline, T)> {
        let [time, frames] = self.soonest;
        let rules_changed = self.version != Some(armed.map(Armed::version));
        if self.entries.is_empty() || !rules_changed && now < time && presented < frames {
            return Vec::new();
        }
        let is_due = |entry: &Entry<T>| match entry.deadline {
            Deadline::Stop => false,
            _ if is_gone(armed, entry.rule) => true,
            Deadline::At(time) => time <= now,
            Deadline::Frames(frames) => frames <= presented,
            Deadline::Removal => false,
        };
        let entries = std::mem::take(&mut self.entries);
        let (due, left): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_due);
        self.soonest = [u64::MAX; 2];
        left.iter().for_each(|entry| self.note(entry.deadline));
        self.entries = left;
        self.version = Some(armed.map(Armed::version));
        due.into_iter()
            .map(|entry| (entry.deadline, entry.value))
            .collect()
    }

    /// The time at which the next entry is due if no frame comes; 0 if the rule of one is gone.
    pub(super) fn next_deadline(&self, armed: Option<&Armed>) -> Option<u64> {
        let is_released =
            |entry: &Entry<T>| entry.deadline != Deadline::Stop && is_gone(armed, entry.rule);
        let rules_changed = self.version != Some(armed.map(Armed::version));
        if rules_changed && self.entries.iter().any(is_released) {
            return Some(0);
        }
        Some(self.soonest[0]).filter(|time| *time < u64::MAX)
    }
}
