//! Flow rules: exact and masked matches on header fields, by tuple-space search.
//!
//! Rules with the same type and mask share a hash table, so that a frame costs one probe per distinct (type,
//! mask) however many rules there are.

use std::collections::{BTreeMap, HashMap};
use std::mem::offset_of;

use foldhash::fast::RandomState;
use zerocopy::IntoBytes;

use crate::abi::{self, Flow, RuleAction, RuleType};
use crate::frame::{Headers, IpVersion, L4Protocol};
use crate::limits::MAX_RULES;

/// Distinct (type, mask) pairs in one table: bounds what one frame can cost.
pub const MAX_MASKS: usize = 64;

/// What a rule does with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
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
pub struct Rule {
    /// The lowest that matches wins.
    pub location: u32,
    /// The frames it is about.
    pub rule_type: RuleType,
    /// What happens to them.
    pub action: Action,
    /// What they have in the bits of `mask`.
    pub value: Flow,
    /// The bits that are compared.
    pub mask: Flow,
}

/// Why rules were not set or deleted. The table is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
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
pub(crate) type Refusal = (usize, &'static str);

impl TryFrom<&abi::Rule> for Rule {
    type Error = Refusal;

    fn try_from(rule: &abi::Rule) -> Result<Self, Refusal> {
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
            Ok(RuleAction::Drop) if queue == 0 => Action::Drop,
            Ok(RuleAction::Drop) => {
                return Err((offset_of!(abi::Rule, queue), "means nothing to a drop"));
            }
            Ok(RuleAction::Queue) => Action::Queue(queue),
            Ok(RuleAction::Context) => Action::Context {
                context,
                offset: queue,
            },
            Err(_) => return Err((offset_of!(abi::Rule, action), "is not an action")),
        };
        if context != 0 && !matches!(action, Action::Context { .. }) {
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

/// The flow rules of a port.
#[derive(Debug, Clone, Default)]
pub struct RuleTable {
    /// By location, ascending.
    rules: Vec<Rule>,
    /// Theirs, apart, so that a lookup does not drag whole rules through the cache.
    actions: Vec<Action>,
    /// By the lowest location in them, ascending.
    groups: Vec<Group>,
}

/// The rules that share a type and a mask.
#[derive(Debug, Clone)]
struct Group {
    rule_type: RuleType,
    mask: Key,
    /// The mask covers the VLAN tag: frames without one don't match.
    tagged: bool,
    /// Index in [`RuleTable::rules`] of the first rule with this value.
    by_value: HashMap<Key, u32, RandomState>,
    /// The lowest of these indexes.
    first: usize,
}

/// A [`Flow`] as words, for masking and hashing.
type Key = [u64; size_of::<Flow>() / 8];

impl RuleTable {
    /// Sets all of `rules`, each in place of the rule at its location if there is one.
    ///
    /// # Errors
    /// There would be too many masks.
    pub fn set(&mut self, rules: &[Rule]) -> Result<(), RuleError> {
        let mut by_location = self.by_location();
        by_location.extend(rules.iter().map(|rule| (rule.location, *rule)));
        *self = Self::build(by_location.into_values().collect())?;
        Ok(())
    }

    /// Deletes the rules at all of `locations`.
    ///
    /// # Errors
    /// A location has no rule.
    pub fn delete(&mut self, locations: &[u32]) -> Result<(), RuleError> {
        let mut by_location = self.by_location();
        for &location in locations {
            by_location
                .remove(&location)
                .ok_or(RuleError::NotFound { location })?;
        }
        *self = Self::build(by_location.into_values().collect())?;
        Ok(())
    }

    /// The rules, by location.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule with the lowest location that matches the frame.
    #[must_use]
    #[inline]
    pub fn lookup(&self, headers: &Headers, head: &[u8]) -> Option<&Rule> {
        self.rules.get(self.find(headers, head)?)
    }

    /// What that rule does.
    #[must_use]
    #[inline]
    pub fn action(&self, headers: &Headers, head: &[u8]) -> Option<Action> {
        self.actions.get(self.find(headers, head)?).copied()
    }

    #[inline]
    fn find(&self, headers: &Headers, head: &[u8]) -> Option<usize> {
        if self.rules.is_empty() {
            return None;
        }
        let flow = key(&flow_of(headers, head)?);
        let mut found = None;
        for group in &self.groups {
            if found.is_some_and(|found| found < group.first) {
                break;
            }
            if !group.concerns(headers) {
                continue;
            }
            let masked = std::array::from_fn(|word| flow[word] & group.mask[word]);
            if let Some(&index) = group.by_value.get(&masked) {
                let index = index as usize;
                found = Some(found.map_or(index, |found: usize| found.min(index)));
            }
        }
        found
    }

    fn by_location(&self) -> BTreeMap<u32, Rule> {
        let rules = self.rules.iter();
        rules.map(|rule| (rule.location, *rule)).collect()
    }

    /// Groups `rules`, which are in the order of their locations.
    fn build(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let mut numbers = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let mask = key(&rule.mask);
            let number = *numbers
                .entry((rule.rule_type, mask))
                .or_insert(groups.len());
            if number == MAX_MASKS {
                return Err(RuleError::TooManyMasks);
            }
            if number == groups.len() {
                groups.push(Group {
                    rule_type: rule.rule_type,
                    mask,
                    tagged: rule.mask.vlan_tci.get() != 0,
                    by_value: HashMap::default(),
                    first: index,
                });
            }
            groups[number]
                .by_value
                .entry(key(&rule.value))
                .or_insert(index as u32);
        }
        Ok(Self {
            actions: rules.iter().map(|rule| rule.action).collect(),
            rules,
            groups,
        })
    }
}

impl Group {
    /// Whether rules of this group are about such a frame.
    fn concerns(&self, headers: &Headers) -> bool {
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

/// The fields of a frame; those that it lacks are zero. `None` if it has no Ethernet addresses.
fn flow_of(headers: &Headers, head: &[u8]) -> Option<Flow> {
    let mut flow = Flow {
        eth_dst: headers.ether_destination(head)?,
        eth_src: headers.ether_source(head)?,
        eth_type: headers.ether_type.into(),
        vlan_tci: headers.vlan.unwrap_or(0).into(),
        ..Flow::default()
    };
    if let (Some(l3), Some((source, destination))) = (headers.l3, headers.addresses(head)) {
        flow.ip_proto = l3.protocol;
        flow.ip_tos = l3.tos;
        flow.ip_src[..source.len()].copy_from_slice(source);
        flow.ip_dst[..destination.len()].copy_from_slice(destination);
    }
    if let Some(l4) = headers.l4 {
        flow.l4_src = l4.source_port.into();
        flow.l4_dst = l4.destination_port.into();
    }
    Some(flow)
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
    zerocopy::transmute!(*flow)
}

#[cfg(test)]
mod tests;
