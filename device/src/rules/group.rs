//! The rules that share a type and a mask.

use std::{
    collections::{HashMap, hash_map},
    hash::BuildHasher,
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::{FlowAction, FlowRule, Key, key};
use crate::abi::RuleType;
use crate::frame::{Headers, IpVersion, L4Protocol};
use crate::limits::MAX_RSS_CONTEXTS;

/// Hash tables of a group: one is copied when an entry changes.
const SHARDS: usize = 64;

/// The rules that share a type and a mask.
#[derive(Debug, Clone)]
pub(super) struct Group {
    rule_type: RuleType,
    mask: Key,
    /// The mask covers the VLAN tag: untagged frames don't match.
    tagged: bool,
    /// Hash tables, selected by the hash of the value.
    shards: [Arc<HashTable<Entry>>; SHARDS],
    /// Number of further rules per value, which never match because another one has a lower
    /// location.
    hidden: Arc<HashMap<Key, u32>>,
    /// The lowest location.
    first: u32,
    rules: usize,
}

/// The rules of a group with the same value; only the one at the lowest location ever matches.
/// Aligned to a cache line: with many rules few are cached, and a frame should wait for one line
/// only.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Entry {
    value: Key,
    /// The lowest location.
    pub(super) location: u32,
    /// The action of the rule there.
    action: Packed,
}

/// An [`FlowAction`] in four bytes.
#[derive(Debug, Clone, Copy)]
struct Packed {
    /// Number of a context, or one of the two constants below, which are not valid numbers.
    context: u16,
    queue: u16,
}

impl Packed {
    const DROP: u16 = u16::MAX;
    const QUEUE: u16 = u16::MAX - 1;
}

const _: () = assert!(size_of::<Entry>() == 64 && MAX_RSS_CONTEXTS <= Packed::QUEUE);

impl From<FlowAction> for Packed {
    fn from(action: FlowAction) -> Self {
        let (context, queue) = match action {
            FlowAction::Drop => (Self::DROP, 0),
            FlowAction::Queue(queue) => (Self::QUEUE, queue),
            FlowAction::Context { context, offset } => (context, offset),
        };
        Self { context, queue }
    }
}

impl Entry {
    /// The action of the rule at the lowest location.
    #[inline]
    pub(super) fn action(&self) -> FlowAction {
        let Packed { context, queue } = self.action;
        match context {
            Packed::DROP => FlowAction::Drop,
            Packed::QUEUE => FlowAction::Queue(queue),
            _ => FlowAction::Context {
                context,
                offset: queue,
            },
        }
    }
}

impl Group {
    /// An empty group for rules with the type and mask of `rule`.
    pub(super) fn of(rule: &FlowRule) -> Self {
        Self {
            rule_type: rule.rule_type,
            mask: key(&rule.mask),
            tagged: rule.mask.vlan_tci.get() != 0,
            shards: std::array::from_fn(|_| Arc::default()),
            hidden: Arc::default(),
            first: u32::MAX,
            rules: 0,
        }
    }

    /// Whether `rule` belongs to this group.
    pub(super) fn is_of(&self, rule: &FlowRule) -> bool {
        self.rule_type == rule.rule_type && self.mask == key(&rule.mask)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// The lowest location.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// The entry for a frame with these fields, if the group [concerns](Self::concerns) it.
    #[inline]
    pub(super) fn find(&self, flow: &Key, hasher: &RandomState) -> Option<&Entry> {
        let value = self.masked(flow);
        let hash = hasher.hash_one(value);
        self.shards[shard(hash)].find(hash, |entry| equal(&entry.value, &value))
    }

    /// The entry where [`find`](Self::find) looks first. It is not read.
    #[inline]
    pub(super) fn first_of_hash(&self, flow: &Key, hasher: &RandomState) -> Option<&Entry> {
        let hash = hasher.hash_one(self.masked(flow));
        self.shards[shard(hash)].iter_hash(hash).next()
    }

    /// Whether `entry`, an entry of this group, matches a frame with these fields.
    #[inline]
    pub(super) fn has(&self, entry: &Entry, flow: &Key) -> bool {
        equal(&entry.value, &self.masked(flow))
    }

    #[inline]
    fn masked(&self, flow: &Key) -> Key {
        std::array::from_fn(|word| flow[word] & self.mask[word])
    }

    /// Adds a rule.
    pub(super) fn insert(&mut self, rule: &FlowRule, hasher: &RandomState) {
        let value = key(&rule.value);
        let hash = hasher.hash_one(value);
        let shard = Arc::make_mut(&mut self.shards[shard(hash)]);
        if let Some(entry) = shard.find_mut(hash, |entry| entry.value == value) {
            *Arc::make_mut(&mut self.hidden).entry(value).or_default() += 1;
            if rule.location < entry.location {
                (entry.location, entry.action) = (rule.location, rule.action.into());
            }
        } else {
            let entry = Entry {
                value,
                location: rule.location,
                action: rule.action.into(),
            };
            shard.insert_unique(hash, entry, |entry| hasher.hash_one(entry.value));
        }
        self.first = self.first.min(rule.location);
        self.rules += 1;
    }

    /// Removes a rule. `behind` are all rules of the table with higher locations, ascending.
    pub(super) fn remove<'r>(
        &mut self,
        rule: &FlowRule,
        behind: impl Iterator<Item = &'r FlowRule> + Clone,
        hasher: &RandomState,
    ) {
        let value = key(&rule.value);
        let hash = hasher.hash_one(value);
        let mut others =
            behind.filter(|other| other.rule_type == rule.rule_type && other.mask == rule.mask);
        if self.first == rule.location {
            self.first = others.clone().next().map_or(u32::MAX, |next| next.location);
        }
        let shard = Arc::make_mut(&mut self.shards[shard(hash)]);
        if let Ok(mut found) = shard.find_entry(hash, |entry| entry.value == value) {
            let entry = found.get_mut();
            let has_heirs = self.hidden.contains_key(&value);
            if !has_heirs {
                found.remove();
            } else {
                if entry.location == rule.location
                    && let Some(heir) = others.find(|other| other.value == rule.value)
                {
                    (entry.location, entry.action) = (heir.location, heir.action.into());
                }
                self.reveal(value);
            }
        }
        self.rules -= 1;
    }

    /// Decrements the number of further rules of a value.
    fn reveal(&mut self, value: Key) {
        let hidden = Arc::make_mut(&mut self.hidden);
        if let hash_map::Entry::Occupied(mut count) = hidden.entry(value) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Whether rules of this group apply to such a frame.
    #[inline]
    pub(super) fn concerns(&self, headers: &Headers) -> bool {
        let version = headers.l3.map(|l3| l3.version);
        let protocol = headers.l4.map(|l4| l4.protocol);
        let of_type = match self.rule_type {
            RuleType::Ether => true,
            RuleType::Ipv4 => version == Some(IpVersion::V4),
            RuleType::Ipv6 => version == Some(IpVersion::V6),
            RuleType::Tcp4 => (version, protocol) == (Some(IpVersion::V4), Some(L4Protocol::Tcp)),
            RuleType::Udp4 => (version, protocol) == (Some(IpVersion::V4), Some(L4Protocol::Udp)),
            RuleType::Tcp6 => (version, protocol) == (Some(IpVersion::V6), Some(L4Protocol::Tcp)),
            RuleType::Udp6 => (version, protocol) == (Some(IpVersion::V6), Some(L4Protocol::Udp)),
        };
        of_type && (!self.tagged || headers.vlan.is_some())
    }
}

/// Compares without a call and without a branch per word.
#[inline]
fn equal(a: &Key, b: &Key) -> bool {
    a.iter().zip(b).fold(0, |bits, (a, b)| bits | (a ^ b)) == 0
}

/// The hash table for this hash. Inside, the table uses the lowest and the highest bits.
fn shard(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}
