//! Flow rules: exact and masked matches on header fields, by tuple-space search.
//!
//! Rules with the same type and mask form a group with one hash table, so that a frame costs one probe per
//! distinct (type, mask) however many rules there are. A changed table shares what did not change with the one
//! that it replaces, so that a change costs what it changes, not what there is.

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

/// Distinct (type, mask) pairs in one table: bounds what one frame can cost.
pub const MAX_MASKS: usize = 64;

/// What a rule does with a frame.
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
        /// What is added to the queue in its table.
        offset: u16,
    },
}

/// One flow rule, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRule {
    /// The lowest that matches wins.
    pub location: u32,
    /// The frames it is about.
    pub rule_type: RuleType,
    /// What happens to them.
    pub action: FlowAction,
    /// What they have in the bits of `mask`.
    pub value: Flow,
    /// The bits that are compared.
    pub mask: Flow,
}

/// Why rules were not set or deleted. The table is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlowRuleError {
    /// A rule is not acceptable.
    #[error("rule {index} of the request: the field at byte {offset} {reason}")]
    Refused {
        /// Which of the rules passed, from 0.
        index: usize,
        /// The field, in bytes from the start of [`abi::Rule`].
        offset: usize,
        /// What is wrong with the field.
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

/// A field that is not acceptable: its offset in [`abi::Rule`] and what is wrong with it.
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

/// The flow rules of a port. Cloning it is cheap, and so is changing a clone: the two share all parts that are
/// the same.
#[derive(Debug, Clone, Default)]
pub struct RuleTable {
    /// Those with the same location / [`BLOCK`] together, all ascending.
    blocks: BTreeMap<u32, Arc<BTreeMap<u32, FlowRule>>>,
    groups: Vec<Arc<Group>>,
    hasher: RandomState,
}

/// Where the rule is that a frame matches if it matches any. Nothing was read there: memory that many rules take has to be
/// sent for first.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'t> {
    group: &'t Group,
    /// One with such a hash; there may be others. `None`: the frame matches no rule.
    entry: Option<&'t Entry>,
}

impl Candidate<'_> {
    /// Where that is, a line of the cache.
    #[must_use]
    pub fn address(&self) -> Option<*const u8> {
        self.entry.map(|entry| std::ptr::from_ref(entry).cast())
    }
}

/// Locations whose rules are copied together when one of them changes.
const BLOCK: u32 = 64;

/// A [`Flow`] as words of which the first byte is the lowest, for masking and hashing.
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

    /// The only entry that the frame can match, if its type lets it match those of one group at most.
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

    /// What that rule does. `candidate` is what [`candidate`](Self::candidate) found for the frame, if it was asked.
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

    /// Takes away the rule at a location.
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

/// The [`key`] of the fields of a frame; those that it lacks are zero. `None` if it has no Ethernet addresses.
///
/// Made of whole words, because as words it is read: of a [`Flow`] that was just stored field by field, none could be until
/// all of it is in the cache.
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

/// The bits that a rule of this type may compare. The L4 protocol of a TCP or UDP type is the type itself.
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
