//! The counts of rules and the held frames and chains of one queue.

use std::sync::Arc;

use super::{
    Action, Armed, CompletionFault, Direction, InterruptFault, PortFault, RawRing, Rule, RuleId,
    UsedElement, When,
    draw::{DrawSource, Purpose},
    owned::{OwnedFrame, Touch},
    rule::INITIAL_STATE,
    waiting::{Deadline, Moment, Waiting},
};
use crate::{abi::Opcode, budget::Budget, frame::Headers, rss::Hash};

/// The most frames, and the most frames' chains, that one lane holds. Beyond that frames are
/// dropped and chains returned.
pub const MAX_HELD: usize = 4096;

/// Frames that rules may make in one batch: copies of duplicated frames, and redirected frames. A
/// receive ring has fewer chains.
pub const MAX_MADE: usize = 8192;

/// Bytes that all frames which rules copy, hold or redirect may take on one port, of all queues and
/// both directions together.
pub const PORT_BYTES: usize = 64 << 20;

/// The most rule hits of a batch that are listed one by one: more than a client's queue of events
/// has room for.
pub const MAX_HITS: usize = 4096;

/// A rule hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The rule.
    pub rule: RuleId,
    /// The lane's direction.
    pub direction: Direction,
    /// The lane's queue.
    pub queue: u16,
    /// The number of the frame or command among those that the rule applies to on this lane, from
    /// 1.
    pub count: u64,
    /// The number of this hit among the rule's hits on this lane, from 1.
    pub hit: u64,
    /// The action's name.
    pub action: &'static str,
}

/// Work for the caller after it has unlocked the ring.
#[derive(Debug, Default)]
pub struct Effects {
    /// The first [`MAX_HITS`] rule hits, in order.
    pub hits: Vec<Hit>,
    /// Rule hits behind those.
    pub unlisted_hits: u64,
    /// Frames for another receive queue than steering chose.
    pub redirected: Vec<(u16, OwnedFrame)>,
    /// Faults of the whole port.
    pub port: Vec<PortFault>,
    /// The fault of this batch's interrupt.
    pub interrupt: Option<InterruptFault>,
    /// Frames that rules made.
    made: usize,
}

impl Effects {
    /// Frames that rules made in this batch, at most [`MAX_MADE`].
    #[must_use]
    pub fn made(&self) -> usize {
        self.made
    }

    fn hit(&mut self, hit: Hit) {
        if self.hits.len() < MAX_HITS {
            self.hits.push(hit);
        } else {
            self.unlisted_hits += 1;
        }
    }

    /// A fault that is due already is not due twice.
    fn fault_port(&mut self, fault: PortFault) {
        if !self.port.contains(&fault) {
            self.port.push(fault);
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    seen: u64,
    hits: u64,
}

#[derive(Clone, Copy, Debug)]
struct Stall {
    rule: RuleId,
    until: Option<u64>,
}

/// The frame or command that the rules are consulted about.
pub(super) enum Subject<'a> {
    Frame(&'a Headers, &'a [u8]),
    Command(Option<Opcode>),
}

/// A rule's action on the subject, with its random draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strike {
    pub(super) rule: RuleId,
    pub(super) action: Action,
    pub(super) draw: u64,
}

impl Strike {
    pub(super) fn touches(strikes: &[Self]) -> Vec<Touch> {
        let touch = |strike: &Self| Touch {
            rule: strike.rule,
            action: strike.action.name(),
        };
        strikes.iter().map(touch).collect()
    }
}

/// The state of fault rules on one queue in one direction, which its owner keeps under the lock of
/// the queue's ring. Times are nanoseconds of the caller's clock.
#[derive(Debug)]
pub struct Lane {
    direction: Direction,
    queue: u16,
    state: Option<Arc<str>>,
    tallies: Vec<(RuleId, Tally)>,
    /// Frames or commands seen.
    presented: u64,
    held: Waiting<OwnedFrame>,
    /// The used elements of one frame each.
    withheld: Waiting<Vec<UsedElement>>,
    stall: Option<Stall>,
    dropped: u64,
    limit_dropped: u64,
    budget: Budget,
}

impl Lane {
    /// A lane without state, whose frames are charged to `budget`.
    #[must_use]
    pub fn new(direction: Direction, queue: u16, budget: &Budget) -> Self {
        Self {
            direction,
            queue,
            state: None,
            tallies: Vec::new(),
            presented: 0,
            held: Waiting::default(),
            withheld: Waiting::default(),
            stall: None,
            dropped: 0,
            limit_dropped: 0,
            budget: budget.clone(),
        }
    }

    /// The current state of the lane's rules.
    #[must_use]
    pub fn state(&self) -> &str {
        self.state.as_deref().unwrap_or(INITIAL_STATE)
    }

    /// Frames that faults dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Those of the dropped frames that rules held, copied or redirected beyond a limit: of the
    /// lane, of the batch, or of the port's budget.
    #[must_use]
    pub fn limit_dropped(&self) -> u64 {
        self.limit_dropped
    }

    /// Frames held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Chains withheld.
    #[must_use]
    pub fn withheld(&self) -> usize {
        self.withheld.values().map(Vec::len).sum()
    }

    /// Whether the lane holds nothing and is not stalled, so that its owner can skip it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.withheld.is_empty() && self.stall.is_none()
    }

    /// Whether a stall is in force at `now`.
    pub fn is_stalled(&mut self, armed: Option<&Armed>, now: u64) -> bool {
        self.stall = self.stall.filter(|stall| {
            armed.is_some_and(|armed| armed.has(stall.rule))
                && stall.until.is_none_or(|until| until > now)
        });
        self.stall.is_some()
    }

    /// When the lane's owner must check it again if no frame arrives: the earliest deadline of a
    /// held frame or chain, or the end of a stall.
    #[must_use]
    pub fn next_deadline(&self, armed: Option<&Armed>) -> Option<u64> {
        let stall = self.stall.and_then(|stall| {
            if armed.is_none_or(|armed| !armed.has(stall.rule)) {
                Some(0)
            } else {
                stall.until
            }
        });
        let held = self.held.next_deadline(armed);
        let withheld = self.withheld.next_deadline(armed);
        held.into_iter().chain(withheld).chain(stall).min()
    }

    /// Counts a frame or command and returns the rules that hit it, in their order.
    pub(super) fn consult(
        &mut self,
        armed: &Armed,
        subject: &Subject<'_>,
        effects: &mut Effects,
    ) -> Vec<Strike> {
        self.presented += 1;
        if self.tallies.len() > armed.rules.len() {
            self.tallies.retain(|(id, _)| armed.has(*id));
        }
        let mut strikes = Vec::new();
        let mut next_state = None;
        for one in &armed.rules {
            let rule = &one.rule;
            if !self.applies(rule, subject) {
                continue;
            }
            let tally = self.tally(one.id);
            tally.seen += 1;
            let count = tally.seen;
            let source = DrawSource {
                seed: rule.seed,
                stream: rule.stream,
                direction: self.direction,
                queue: self.queue,
            };
            let tally = self.tally(one.id);
            let hit = rule.times.is_none_or(|times| tally.hits < times.get())
                && match rule.when {
                    When::Always => true,
                    When::Nth(nth) => count == nth.get(),
                    When::Every(every) => count.is_multiple_of(every.get()),
                    When::Probability(chance) => chance.hits(source.draw(count, Purpose::Hit)),
                };
            tally.hits += u64::from(hit);
            let hits = tally.hits;
            one.count(hit);
            if !hit {
                continue;
            }
            effects.hit(Hit {
                rule: one.id,
                direction: self.direction,
                queue: self.queue,
                count,
                hit: hits,
                action: rule.action.name(),
            });
            if let Action::Port(fault) = rule.action {
                effects.fault_port(fault);
            }
            next_state = rule.enter.clone().or(next_state);
            strikes.push(Strike {
                rule: one.id,
                action: rule.action,
                draw: source.draw(count, Purpose::Parameter),
            });
        }
        // All rules see the state from before this frame.
        self.state = next_state.or(self.state.take());
        strikes
    }

    fn applies(&self, rule: &Rule, subject: &Subject<'_>) -> bool {
        rule.direction == self.direction
            && rule.queue.is_none_or(|queue| queue == self.queue)
            && rule
                .state
                .as_deref()
                .is_none_or(|state| state == self.state())
            && match *subject {
                Subject::Frame(headers, header_bytes) => rule.flow.matches(headers, header_bytes),
                Subject::Command(opcode) => rule.opcode.is_none_or(|wanted| opcode == Some(wanted)),
            }
    }

    fn tally(&mut self, id: RuleId) -> &mut Tally {
        let at = self.tallies.iter().position(|(known, _)| *known == id);
        let at = at.unwrap_or_else(|| {
            self.tallies.push((id, Tally::default()));
            self.tallies.len() - 1
        });
        &mut self.tallies[at].1
    }

    /// Counts the current frame as dropped by a fault.
    pub(super) fn drop_frame(&mut self) {
        self.dropped += 1;
    }

    pub(super) fn stall(&mut self, rule: RuleId, now: u64, nanoseconds: Option<u64>) {
        let until = nanoseconds.map(|time| now.saturating_add(time));
        self.stall = Some(Stall { rule, until });
    }

    /// The deadline of the chains that a completion fault withholds.
    pub(super) fn withheld_until(&self, fault: CompletionFault) -> Deadline {
        match fault {
            CompletionFault::Withhold {
                frames: Some(frames),
            } => self.behind(frames.get()),
            CompletionFault::Withhold { frames: None } => Deadline::Removal,
            _ => Deadline::Stop,
        }
    }

    /// The deadline `frames` more frames from now.
    pub(super) fn behind(&self, frames: u32) -> Deadline {
        Deadline::Frames(self.presented.saturating_add(u64::from(frames)))
    }

    /// Counts `frames` as dropped beyond a limit.
    pub(super) fn drop_beyond_limit(&mut self, frames: usize) {
        self.dropped += frames as u64;
        self.limit_dropped += frames as u64;
    }

    /// A copy of a frame; `None`: it is dropped, because the port's budget is used up.
    pub(super) fn own(
        &mut self,
        bytes: Vec<u8>,
        hash: Option<Hash>,
        touches: Vec<Touch>,
    ) -> Option<OwnedFrame> {
        let frame = OwnedFrame::new(&self.budget, bytes, hash, touches);
        if frame.is_none() {
            self.drop_beyond_limit(1);
        }
        frame
    }

    /// Returns how many of `wanted` frames rules may still make in this batch; counts the others as
    /// dropped.
    pub(super) fn make(&mut self, wanted: usize, effects: &mut Effects) -> usize {
        let made = wanted.min(MAX_MADE - effects.made);
        effects.made += made;
        self.drop_beyond_limit(wanted - made);
        made
    }

    /// The frame and `copies` duplicates of it, as far as the budget has room for them.
    pub(super) fn duplicates(&mut self, frame: OwnedFrame, copies: usize) -> Vec<OwnedFrame> {
        let more = (0..copies).map_while(|_| frame.duplicate(&self.budget));
        let mut frames: Vec<_> = more.collect();
        frames.push(frame);
        self.drop_beyond_limit(copies + 1 - frames.len());
        frames
    }

    /// Holds a frame; `false`: there are too many, and it is dropped.
    pub(super) fn hold(&mut self, rule: RuleId, deadline: Deadline, frame: OwnedFrame) -> bool {
        let room = self.held.len() < MAX_HELD;
        if room {
            self.held.push(rule, deadline, frame);
        } else {
            self.drop_beyond_limit(1);
        }
        room
    }

    fn moment(&self, now: u64) -> Moment {
        let presented = self.presented;
        Moment { now, presented }
    }

    /// Takes the frames whose deadline has passed, in the order of their times.
    pub fn take_due(&mut self, armed: Option<&Armed>, now: u64) -> Vec<OwnedFrame> {
        // Ends a stall whose time is over, so that it does not stay a deadline.
        self.is_stalled(armed, now);
        let moment = self.moment(now);
        let mut due = self.held.take_due(armed, moment);
        due.sort_by_key(|(deadline, _)| match deadline {
            Deadline::At(time) => *time,
            Deadline::Frames(_) | Deadline::Removal | Deadline::Stop => 0,
        });
        due.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Withholds used elements until `until`.
    pub(super) fn withhold(
        &mut self,
        rule: RuleId,
        until: Deadline,
        elements: Vec<UsedElement>,
        ring: &mut impl RawRing,
    ) {
        if elements.is_empty() {
            return;
        }
        if self.withheld() >= MAX_HELD {
            elements
                .into_iter()
                .for_each(|element| ring.put_used(element));
            return;
        }
        self.withheld.push(rule, until, elements);
    }

    /// Returns the chains whose deadline has passed.
    pub fn return_due(&mut self, ring: &mut impl RawRing, armed: Option<&Armed>, now: u64) {
        let due = self.withheld.take_due(armed, self.moment(now));
        for element in due.into_iter().flat_map(|(_, elements)| elements) {
            ring.put_used(element);
        }
    }

    /// Stops the lane while `ring` still runs: withheld chains are returned, held frames dropped,
    /// and a stall ends. Counts and state stay. Returns the number of chains returned.
    pub fn stop(&mut self, ring: &mut impl RawRing) -> usize {
        let elements = self.withheld.take().flatten();
        let returned = elements.map(|element| ring.put_used(element)).count();
        self.reset();
        returned
    }

    /// Like [`stop`](Self::stop), for a ring that is gone: no chain can be returned.
    pub fn reset(&mut self) {
        self.withheld = Waiting::default();
        self.held = Waiting::default();
        self.stall = None;
    }
}
