//! Flow rules: exact and masked matches on header fields, by tuple-space search.
//!
//! Rules with the same type and mask form a group with one hash table, so that a frame costs one
//! probe per distinct (type, mask) at any number of rules. A changed table shares its unchanged
//! parts with the table that it replaces, so that the cost of a change does not depend on the size
//! of the table.

mod group;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::Arc;

use foldhash::fast::RandomState;
use zerocopy::IntoBytes;

use self::group::{Entry, Group};
use crate::abi::{self, Flow, RuleAction, RuleType};
use crate::frame::Headers;
use crate::limits::MAX_RULES;

/// The most distinct (type, mask) pairs in one table, which bounds the cost per frame.
pub const MAX_MASKS: usize = 64;

/// The action of a flow rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowAction {
    /// Drops it.
    Drop,
    /// Steers it to this queue.
    Queue(u16),
    /// Steers it to the entry of the context's table plus an offset.
    Context {
        /// The RSS context.
        context: u16,
        /// The offset to the queue in its table.
        offset: u16,
    },
}

/// A validated flow rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRule {
    /// The lowest that matches wins.
    pub location: u32,
    /// The frames that it applies to.
    pub rule_type: RuleType,
    /// The action on matching frames.
    pub action: FlowAction,
    /// Values of the bits in `mask`.
    pub value: Flow,
    /// The bits that are compared.
    pub mask: Flow,
}

/// The reason why rules were not set or deleted. The table is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlowRuleError {
    /// A rule is invalid.
    #[error("rule {index} of the request: the field at byte {offset} {reason}")]
    Refused {
        /// The rule's position in the request, from 0.
        index: usize,
        /// The field, in bytes from the start of [`abi::Rule`].
        offset: usize,
        /// The reason, which completes "the field …".
        reason: &'static str,
    },
    /// The rules have more distinct masks than [`MAX_MASKS`].
    #[error("the rules have more than {MAX_MASKS} distinct masks")]
    TooManyMasks,
    /// There is no rule at the location.
    #[error("there is no rule at location {location}")]
    NotFound {
        /// The location.
        location: u32,
    },
}

/// An invalid field: its offset in [`abi::Rule`] and the reason.
pub(crate) type FieldRefusal = (usize, &'static str);

impl TryFrom<&abi::Rule> for FlowRule {
    type Error = FieldRefusal;

    fn try_from(rule: &abi::Rule) -> Result<Self, FieldRefusal> {
        let location = rule.location.get();
        if location >= MAX_RULES {
            return Err((
                offset_of!(abi::Rule, location),
                "is beyond the last location",
            ));
        }
        let rule_type = RuleType::try_from(rule.rule_type)
            .map_err(|_| (offset_of!(abi::Rule, rule_type), "is not a rule type"))?;
        let (queue, context) = (rule.queue.get(), rule.context.get());
        let action = match RuleAction::try_from(rule.action) {
            Ok(RuleAction::Drop) if queue == 0 => FlowAction::Drop,
            Ok(RuleAction::Drop) => {
                return Err((offset_of!(abi::Rule, queue), "means nothing to a drop"));
            }
            Ok(RuleAction::Queue) => FlowAction::Queue(queue),
            Ok(RuleAction::Context) => FlowAction::Context {
                context,
                offset: queue,
            },
            Err(_) => return Err((offset_of!(abi::Rule, action), "is not an action")),
        };
        if context != 0 && !matches!(action, FlowAction::Context { .. }) {
            return Err((
                offset_of!(abi::Rule, context),
                "is for context actions only",
            ));
        }
        let allowed = maskable(rule_type);
        if let Some(at) = first_outside(&rule.mask, &allowed) {
            let reason = "is not a field that the rule's type can match";
            return Err((offset_of!(abi::Rule, mask) + at, reason));
        }
        if let Some(at) = first_outside(&rule.value, &rule.mask) {
            return Err((
                offset_of!(abi::Rule, value) + at,
                "has bits outside its mask",
            ));
        }
        Ok(Self {
            location,
            rule_type,
            action,
            value: rule.value,
            mask: rule.mask,
        })
    }
}

/// The flow rules of a port. Cloning is cheap, and so is changing a clone: the two share all parts
/// that are equal.
#[derive(Debug, Clone, Default)]
pub struct RuleTable {
    /// Rules in blocks of [`BLOCK`] locations, ascending.
    blocks: BTreeMap<u32, Arc<BTreeMap<u32, FlowRule>>>,
    groups: Vec<Arc<Group>>,
    hasher: RandomState,
}

/// The only rule that a frame can match, found but not read: the memory of many rules is not in the
/// cache and should be prefetched first.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'t> {
    group: &'t Group,
    /// An entry with the frame's hash, possibly another value's; `None`: the frame matches no rule.
    entry: Option<&'t Entry>,
}

impl Candidate<'_> {
    /// The entry's address, a cache line to prefetch. It is not to be dereferenced.
    #[must_use]
    pub fn address(&self) -> Option<*const u8> {
        self.entry.map(|entry| std::ptr::from_ref(entry).cast())
    }
}

/// Locations per block, which is copied when one of its rules changes.
const BLOCK: u32 = 64;

/// A [`Flow`] as little-endian words, for masking and hashing.
type Key = [u64; size_of::<Flow>() / 8];

impl RuleTable {
    /// Sets all of `rules`, each in place of the rule at its location if there is one.
    ///
    /// # Errors
    /// There would be too many masks.
    pub fn set(&mut self, rules: &[FlowRule]) -> Result<(), FlowRuleError> {
        let mut changed = self.clone();
        for rule in rules {
            changed.remove(rule.location);
            changed.insert(rule);
        }
        if changed.groups.len() > MAX_MASKS {
            return Err(FlowRuleError::TooManyMasks);
        }
        *self = changed;
        Ok(())
    }

    /// Deletes the rules at all of `locations`.
    ///
    /// # Errors
    /// A location has no rule.
    pub fn delete(&mut self, locations: &[u32]) -> Result<(), FlowRuleError> {
        let mut changed = self.clone();
        for &location in locations {
            changed
                .remove(location)
                .ok_or(FlowRuleError::NotFound { location })?;
        }
        *self = changed;
        Ok(())
    }

    /// The rules, by location.
    pub fn rules(&self) -> impl Iterator<Item = &FlowRule> {
        self.blocks.values().flat_map(|block| block.values())
    }

    /// The rule with the lowest location that matches the frame.
    #[must_use]
    pub fn lookup(&self, headers: &Headers, header_bytes: &[u8]) -> Option<&FlowRule> {
        self.at(self.find(headers, header_bytes)?.location)
    }

    /// The only entry that the frame can match, if its type restricts it to the rules of one group.
    #[must_use]
    #[inline]
    pub fn candidate(&self, headers: &Headers, header_bytes: &[u8]) -> Option<Candidate<'_>> {
        let mut groups = self.groups.iter().filter(|group| group.concerns(headers));
        match (groups.next(), groups.next()) {
            (Some(group), None) => {
                let flow = key_of(headers, header_bytes)?;
                Some(Candidate {
                    group,
                    entry: group.first_of_hash(&flow, &self.hasher),
                })
            }
            _ => None,
        }
    }

    /// The action of the matching rule. `candidate` is the result of [`candidate`](Self::candidate)
    /// for the frame, if the caller asked.
    #[must_use]
    #[inline]
    pub fn action(
        &self,
        headers: &Headers,
        header_bytes: &[u8],
        candidate: Option<Candidate<'_>>,
    ) -> Option<FlowAction> {
        if let Some(candidate) = candidate {
            let entry = candidate.entry?;
            if candidate.group.has(entry, &key_of(headers, header_bytes)?) {
                return Some(entry.action());
            }
        }
        self.find(headers, header_bytes).map(Entry::action)
    }

    #[inline]
    fn find(&self, headers: &Headers, header_bytes: &[u8]) -> Option<&Entry> {
        if self.groups.is_empty() {
            return None;
        }
        let flow = key_of(headers, header_bytes)?;
        let mut found: Option<&Entry> = None;
        for group in &self.groups {
            if found.is_some_and(|found| found.location < group.first()) {
                continue;
            }
            if group.concerns(headers)
                && let Some(entry) = group.find(&flow, &self.hasher)
                && found.is_none_or(|found| entry.location < found.location)
            {
                found = Some(entry);
            }
        }
        found
    }

    fn at(&self, location: u32) -> Option<&FlowRule> {
        self.blocks.get(&(location / BLOCK))?.get(&location)
    }

    /// Adds a rule at a location that has none.
    fn insert(&mut self, rule: &FlowRule) {
        let block = self.blocks.entry(rule.location / BLOCK).or_default();
        Arc::make_mut(block).insert(rule.location, *rule);
        let group = self.groups.iter_mut().find(|group| group.is_of(rule));
        let group = match group {
            Some(group) => group,
            None => self.groups.push_mut(Arc::new(Group::of(rule))),
        };
        Arc::make_mut(group).insert(rule, &self.hasher);
    }

    /// Removes the rule at a location.
    fn remove(&mut self, location: u32) -> Option<FlowRule> {
        let block = self.blocks.get_mut(&(location / BLOCK))?;
        if !block.contains_key(&location) {
            return None;
        }
        let block = Arc::make_mut(block);
        let rule = block.remove(&location)?;
        if block.is_empty() {
            self.blocks.remove(&(location / BLOCK));
        }
        let index = self.groups.iter().position(|group| group.is_of(&rule))?;
        let behind = self
            .blocks
            .range(location / BLOCK..)
            .flat_map(|(_, block)| block.range(location..))
            .map(|(_, rule)| rule);
        let group = Arc::make_mut(&mut self.groups[index]);
        group.remove(&rule, behind, &self.hasher);
        if group.is_empty() {
            self.groups.swap_remove(index);
        }
        Some(rule)
    }
}

/// The [`key`] of the fields of a frame, missing fields being zero. `None` if it has no Ethernet
/// addresses.
///
/// Assembled from whole words because it is read in words: reading a [`Flow`] that was just stored
/// field by field would be a store-to-load forwarding stall.
#[inline]
fn key_of(headers: &Headers, header_bytes: &[u8]) -> Option<Key> {
    let (first, rest) = header_bytes.split_first_chunk::<8>()?;
    let rest = rest.first_chunk::<4>()?;
    let big_endian = |value: u16| u64::from(value.swap_bytes());
    let (ether_type, tci) = (headers.ether_type, headers.vlan.unwrap_or(0));
    let mut key = [0; size_of::<Key>() / 8];
    key[0] = u64::from_le_bytes(*first);
    key[1] =
        u64::from(u32::from_le_bytes(*rest)) | big_endian(ether_type) << 32 | big_endian(tci) << 48;
    if let (Some(l3), Some((source, destination))) = (headers.l3, headers.addresses(header_bytes)) {
        let (source, destination) = (address_words(source), address_words(destination));
        key[2] = u64::from(l3.protocol) | u64::from(l3.tos) << 8 | source[0] << 32;
        key[3] = source[1];
        key[4] = source[2] | destination[0] << 32;
        key[5] = destination[1];
        key[6] = destination[2];
    }
    if let Some(l4) = headers.l4 {
        key[6] |= big_endian(l4.source_port) << 32 | big_endian(l4.destination_port) << 48;
    }
    Some(key)
}

/// The first four, the next eight and the last four bytes of an address.
#[inline]
fn address_words(address: &[u8]) -> [u64; 3] {
    let half = |bytes| u64::from(u32::from_le_bytes(bytes));
    if let Some(&[a, b, c, d, ref middle @ .., m, n, o, p]) = address.as_array::<16>() {
        [
            half([a, b, c, d]),
            u64::from_le_bytes(*middle),
            half([m, n, o, p]),
        ]
    } else if let Some(address) = address.as_array::<4>() {
        [half(*address), 0, 0]
    } else {
        [0; 3]
    }
}

/// The bits that a rule of this type may compare. The type implies the L4 protocol of a TCP or UDP
/// rule.
fn maskable(rule_type: RuleType) -> Flow {
    let (address, protocol, tos, port) = match rule_type {
        RuleType::Ether => (0, 0, 0, 0),
        RuleType::Ipv4 => (4, 0xff, 0xff, 0),
        RuleType::Tcp4 | RuleType::Udp4 => (4, 0, 0xff, 0xffff),
        RuleType::Ipv6 => (16, 0xff, 0xff, 0),
        RuleType::Tcp6 | RuleType::Udp6 => (16, 0, 0xff, 0xffff),
    };
    let address = std::array::from_fn(|byte| if byte < address { 0xff } else { 0 });
    Flow {
        eth_dst: [0xff; 6],
        eth_src: [0xff; 6],
        eth_type: 0xffff.into(),
        vlan_tci: 0xffff.into(),
        ip_proto: protocol,
        ip_tos: tos,
        reserved: 0.into(),
        ip_src: address,
        ip_dst: address,
        l4_src: port.into(),
        l4_dst: port.into(),
    }
}

/// The offset of the first byte of `flow` with a bit that `allowed` does not have.
fn first_outside(flow: &Flow, allowed: &Flow) -> Option<usize> {
    let mut both = flow.as_bytes().iter().zip(allowed.as_bytes());
    both.position(|(byte, allowed)| byte & !allowed != 0)
}

fn key(flow: &Flow) -> Key {
    let bytes: [[u8; 8]; size_of::<Key>() / 8] = zerocopy::transmute!(*flow);
    bytes.map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
