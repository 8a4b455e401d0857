//! Steering of received frames: address filter, then flow rules, then RSS.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::num::NonZeroU32;
use std::sync::Arc;

use zerocopy::little_endian::U16;

use crate::abi::{self, Invalid, RssDel, RssSet, RuleSet, Status};
use crate::filter::AddressFilter;
use crate::frame::Headers;
use crate::limits::MAX_RSS_CONTEXTS;
use crate::rss::{Hash, RssContext};
use crate::rules::{
    Candidate, FieldRefusal, FlowAction, FlowRule, FlowRuleError, MAX_MASKS, RuleTable,
};
use crate::train::Train;

/// The steering decision on a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SteeringDecision {
    /// It goes to a data queue.
    Queue {
        /// The queue.
        queue: u16,
        /// Its hash.
        hash: Option<Hash>,
    },
    /// The address filter drops it.
    Filtered,
    /// It is dropped because it is longer than the MTU.
    Oversize,
    /// A flow rule drops it.
    RuleDrop,
}

/// The reason why the steering configuration was not changed. It is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SteeringError {
    /// A field of the request is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Flow rules are invalid.
    #[error(transparent)]
    Rules(#[from] FlowRuleError),
    /// There is no such RSS context.
    #[error("there is no RSS context {0}")]
    NoContext(u16),
    /// A rule uses the RSS context.
    #[error("a rule uses RSS context {0}")]
    ContextInUse(u16),
}

impl SteeringError {
    /// The status and detail for the response.
    #[must_use]
    pub fn status(&self) -> (Status, u32) {
        let (status, detail) = match *self {
            Self::Invalid(Invalid { offset }) => (Status::Invalid, offset),
            Self::Rules(FlowRuleError::Refused { index, offset, .. }) => {
                let start = size_of::<RuleSet>() + index * size_of::<abi::Rule>();
                (Status::Invalid, start + offset)
            }
            Self::Rules(FlowRuleError::TooManyMasks) => (Status::NoSpace, MAX_MASKS),
            Self::Rules(FlowRuleError::NotFound { location }) => {
                return (Status::NotFound, location);
            }
            Self::NoContext(context) => return (Status::NotFound, context.into()),
            Self::ContextInUse(context) => return (Status::Busy, context.into()),
        };
        (status, u32::try_from(detail).unwrap_or(u32::MAX))
    }
}

/// The steering configuration of a port. Cloning is cheap: control changes a clone and publishes
/// it, and frames in flight keep the one that they started with.
///
/// ```
/// use zcnic_device::{
///     abi::{Rule, RuleAction, RuleType},
///     frame::Headers,
///     steering::{Steering, SteeringDecision},
/// };
///
/// let mut steering = Steering::plain(4);
/// let drop_all = Rule {
///     rule_type: RuleType::Ether.into(),
///     action: RuleAction::Drop.into(),
///     ..Rule::default()
/// };
/// steering.set_rules(&[drop_all]).expect("a valid rule");
///
/// let frame = [0xff; 60];
/// let headers = Headers::parse(&frame, frame.len());
/// assert_eq!(steering.steer(&headers, &frame), SteeringDecision::RuleDrop);
/// ```
#[derive(Debug, Clone)]
pub struct Steering {
    data_queues: u16,
    filter: AddressFilter,
    /// Bytes that a frame may have behind the Ethernet header and its tags.
    mtu: usize,
    /// Context 0.
    default_context: Arc<RssContext>,
    /// All other contexts.
    contexts: Arc<BTreeMap<u16, Arc<RssContext>>>,
    rules: Arc<RuleTable>,
}

impl Steering {
    /// The steering of a new session: only broadcast passes, and all frames go to queue 0 of
    /// `data_queues`.
    #[must_use]
    pub fn new(data_queues: u16) -> Self {
        Self {
            data_queues,
            filter: AddressFilter::default(),
            mtu: usize::MAX,
            default_context: Arc::new(RssContext::unset()),
            contexts: Arc::default(),
            rules: Arc::default(),
        }
    }

    /// The steering of a plain virtio-net device with `queues` queue pairs in use: all frames pass
    /// and flows are spread over the queues.
    #[must_use]
    pub fn plain(queues: u16) -> Self {
        Self {
            filter: AddressFilter::promiscuous(),
            default_context: Arc::new(RssContext::spread(queues)),
            ..Self::new(queues)
        }
    }

    /// The address filter.
    #[must_use]
    pub fn filter(&self) -> &AddressFilter {
        &self.filter
    }

    /// The RSS contexts with their numbers, ascending.
    pub fn contexts(&self) -> impl Iterator<Item = (u16, &RssContext)> {
        let others = self.contexts.iter();
        std::iter::once((0, &*self.default_context))
            .chain(others.map(|(number, context)| (*number, &**context)))
    }

    /// The flow rules, by location.
    pub fn rules(&self) -> impl Iterator<Item = &FlowRule> {
        self.rules.rules()
    }

    /// Replaces the address filter.
    pub fn set_filter(&mut self, filter: AddressFilter) {
        self.filter = filter;
    }

    /// Drops frames with more bytes behind the Ethernet header and its tags; `None`: none.
    pub fn set_mtu(&mut self, mtu: Option<NonZeroU32>) {
        self.mtu = mtu.map_or(usize::MAX, |mtu| mtu.get() as usize);
    }

    /// Executes RSS_SET: sets or creates a context.
    ///
    /// # Errors
    /// The invalid field ([`RssContext::from_request`]).
    pub fn set_context(&mut self, set: &RssSet, table: &[U16]) -> Result<(), SteeringError> {
        let number = set.context.get();
        if number >= MAX_RSS_CONTEXTS {
            let offset = offset_of!(RssSet, context);
            return Err(Invalid { offset }.into());
        }
        let context = Arc::new(RssContext::from_request(set, table, self.data_queues)?);
        if number == 0 {
            self.default_context = context;
        } else {
            Arc::make_mut(&mut self.contexts).insert(number, context);
        }
        Ok(())
    }

    /// Executes RSS_DEL.
    ///
    /// # Errors
    /// The context is 0, does not exist, or a rule uses it.
    pub fn delete_context(&mut self, number: u16) -> Result<(), SteeringError> {
        if number == 0 {
            let offset = offset_of!(RssDel, context);
            return Err(Invalid { offset }.into());
        }
        if !self.contexts.contains_key(&number) {
            return Err(SteeringError::NoContext(number));
        }
        let uses = |rule: &FlowRule| matches!(rule.action, FlowAction::Context { context, .. } if context == number);
        if self.rules.rules().any(uses) {
            return Err(SteeringError::ContextInUse(number));
        }
        Arc::make_mut(&mut self.contexts).remove(&number);
        Ok(())
    }

    /// Executes RULE_SET: sets all of `rules` or none.
    ///
    /// # Errors
    /// A rule is invalid, names a queue or a context that does not exist, or would steer beyond the
    /// last queue; or the table can't hold the rules ([`RuleTable::set`]).
    pub fn set_rules(&mut self, rules: &[abi::Rule]) -> Result<(), SteeringError> {
        let mut checked = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let rule = FlowRule::try_from(rule).and_then(|rule| self.check_target(rule));
            checked.push(rule.map_err(|(offset, reason)| FlowRuleError::Refused {
                index,
                offset,
                reason,
            })?);
        }
        Ok(Arc::make_mut(&mut self.rules).set(&checked)?)
    }

    /// Executes RULE_DEL: deletes the rules at all of `locations` or none.
    ///
    /// # Errors
    /// A location has no rule.
    pub fn delete_rules(&mut self, locations: &[u32]) -> Result<(), SteeringError> {
        Ok(Arc::make_mut(&mut self.rules).delete(locations)?)
    }

    /// The rule to prefetch before the frame is [steered by it](Self::steer_train), if the frame can
    /// match only one. The memory of 10,000 rules is as large as a second-level cache.
    #[must_use]
    #[inline]
    pub fn candidate(&self, headers: &Headers, header_bytes: &[u8]) -> Option<Candidate<'_>> {
        self.rules.candidate(headers, header_bytes)
    }

    /// Decides on a frame with these headers that is not longer than the MTU.
    #[must_use]
    #[inline]
    pub fn steer(&self, headers: &Headers, header_bytes: &[u8]) -> SteeringDecision {
        self.decide(None, headers, header_bytes, 0)
    }

    /// Decides on a train, with the result of [`candidate`](Self::candidate) for it if it was
    /// called. Its segments share the decision: only the last one may be shorter, and it is dropped
    /// with the others that are longer than the MTU.
    #[must_use]
    #[inline]
    pub fn steer_train<S: ?Sized>(
        &self,
        candidate: Option<Candidate<'_>>,
        train: &Train<'_, S>,
    ) -> SteeringDecision {
        let length = train.segment_length(0);
        self.decide(candidate, train.headers(), train.header_bytes(), length)
    }

    #[inline]
    fn decide(
        &self,
        candidate: Option<Candidate<'_>>,
        headers: &Headers,
        header_bytes: &[u8],
        length: usize,
    ) -> SteeringDecision {
        if !headers
            .ether_destination(header_bytes)
            .is_some_and(|address| self.filter.accepts(address))
        {
            return SteeringDecision::Filtered;
        }
        if length.saturating_sub(headers.l2_end) > self.mtu {
            return SteeringDecision::Oversize;
        }
        let (queue, hash) = match self.rules.action(headers, header_bytes, candidate) {
            Some(FlowAction::Drop) => return SteeringDecision::RuleDrop,
            Some(FlowAction::Queue(queue)) => {
                (queue, self.default_context.hash(headers, header_bytes))
            }
            Some(FlowAction::Context { context, offset }) => {
                let context = self.context(context).unwrap_or(&self.default_context);
                let hash = context.hash(headers, header_bytes);
                (context.queue(hash).saturating_add(offset), hash)
            }
            None => {
                let hash = self.default_context.hash(headers, header_bytes);
                (self.default_context.queue(hash), hash)
            }
        };
        // A context's table may have changed since a rule that adds an offset was set.
        let queue = queue.min(self.data_queues.saturating_sub(1));
        SteeringDecision::Queue { queue, hash }
    }

    /// The flow rule that the frame with these headers matches.
    #[must_use]
    pub fn matching_rule(&self, headers: &Headers, header_bytes: &[u8]) -> Option<&FlowRule> {
        self.rules.lookup(headers, header_bytes)
    }

    fn context(&self, number: u16) -> Option<&Arc<RssContext>> {
        match number {
            0 => Some(&self.default_context),
            _ => self.contexts.get(&number),
        }
    }

    /// Checks that the rule's queue or context exists.
    fn check_target(&self, rule: FlowRule) -> Result<FlowRule, FieldRefusal> {
        let highest = match rule.action {
            FlowAction::Drop => return Ok(rule),
            FlowAction::Queue(queue) => queue,
            FlowAction::Context { context, offset } => self
                .context(context)
                .ok_or((offset_of!(abi::Rule, context), "is not an RSS context"))?
                .highest_queue()
                .saturating_add(offset),
        };
        if highest >= self.data_queues {
            return Err((
                offset_of!(abi::Rule, queue),
                "is beyond the last data queue",
            ));
        }
        Ok(rule)
    }
}

#[cfg(test)]
mod tests;
