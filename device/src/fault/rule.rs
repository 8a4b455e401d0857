//! Fault rules, and the set of them that a port has.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use thiserror::Error;

use super::{
    Action, CommandFault, Direction, FrameFault, PlacementFault, PortFault, QueueFault,
    frame::{MAX_COPIES, MAX_DELAY, MIN_LENGTH},
};
use crate::{
    abi::{Opcode, Status},
    flow::FlowPattern,
    limits::MAX_QUEUE_PAIRS,
};

/// The state that every lane starts in.
pub const INITIAL_STATE: &str = "initial";

/// The most rules of one port.
pub const MAX_RULES: usize = 64;

/// The longest name of a state, in bytes.
const MAX_STATE: usize = 64;

/// Number of a rule, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u64);

/// A probability between 0 and 1, both included, as the bits of its `f64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probability(u64);

impl Probability {
    /// The probability `value`.
    ///
    /// # Errors
    ///
    /// It is not between 0 and 1.
    pub fn new(value: f64) -> Result<Self, RuleError> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value.to_bits()))
        } else {
            Err(RuleError::Probability(value.to_string()))
        }
    }

    /// As a number between 0 and 1.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }

    /// Whether the uniformly distributed number `draw` is a hit.
    #[must_use]
    pub fn hits(self, draw: u64) -> bool {
        // Every number of 53 bits is an `f64`.
        ((draw >> 11) as f64) < self.value() * (1_u64 << 53) as f64
    }
}

/// Which of the frames that a rule applies to it hits. Frames are counted from 1, per lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Every frame.
    Always,
    /// The frame with this number.
    Nth(NonZeroU64),
    /// Every frame whose number is a multiple of this.
    Every(NonZeroU64),
    /// Every frame with this probability.
    Probability(Probability),
}

/// A fault rule: which frames or commands it applies to, when it hits, and its action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The traffic that the rule applies to.
    pub direction: Direction,
    /// Only frames of this queue; `None`: of all queues. Not for commands.
    pub queue: Option<u16>,
    /// Only these frames. Not for commands.
    pub flow: FlowPattern,
    /// Only these commands; `None`: all. Only for commands.
    pub opcode: Option<Opcode>,
    /// Only while the lane is in this state; `None`: in any.
    pub state: Option<Arc<str>>,
    /// Which of the frames or commands that it applies to it hits.
    pub when: When,
    /// The seed of random draws.
    pub seed: u64,
    /// Distinguishes rules with the same seed.
    pub stream: u32,
    /// The most hits per lane; `None`: no limit.
    pub times: Option<NonZeroU64>,
    /// The action.
    pub action: Action,
    /// The state that the lane enters.
    pub enter: Option<Arc<str>>,
}

/// The reason why a rule is invalid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RuleError {
    /// The action does not exist in this direction.
    #[error("Action {action} is for {allowed}, not for {direction}")]
    Direction {
        /// The action's name.
        action: &'static str,
        /// The directions that it exists in.
        allowed: String,
        /// The direction of the rule.
        direction: &'static str,
    },
    /// A match that only frames have.
    #[error("Rules for commands have no {0}")]
    NotForCommands(&'static str),
    /// A match that only commands have.
    #[error("Only rules for commands have an opcode")]
    OnlyForCommands,
    /// The queue number is too large.
    #[error("Queue {0} is not below {MAX_QUEUE_PAIRS}")]
    Queue(u16),
    /// The probability is out of range.
    #[error("Probability {0} is not between 0 and 1")]
    Probability(String),
    /// A parameter is out of its range.
    #[error("Parameter {name} of {action} is {value}, not between {from} and {to}")]
    Range {
        /// The action's name.
        action: &'static str,
        /// The parameter's name.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least that is allowed.
        from: u64,
        /// The most that is allowed.
        to: u64,
    },
    /// The status of a failing command is a success.
    #[error("A command that fails can't answer {0:?}")]
    Status(Status),
    /// The length of a state's name is out of range.
    #[error("Names of states have 1 to {MAX_STATE} bytes")]
    State,
    /// Too many rules.
    #[error("A port has at most {MAX_RULES} rules, remove some")]
    TooMany,
}

impl Rule {
    /// Checks that the rule is valid.
    ///
    /// # Errors
    ///
    /// The first part of the rule that is invalid.
    pub fn check(&self) -> Result<(), RuleError> {
        let info = self.action.info();
        if !info.directions.contains(&self.direction) {
            let allowed: Vec<_> = info.directions.iter().map(|one| one.name()).collect();
            return Err(RuleError::Direction {
                action: info.name,
                allowed: allowed.join(", "),
                direction: self.direction.name(),
            });
        }
        if self.direction == Direction::Command {
            if self.queue.is_some() {
                return Err(RuleError::NotForCommands("queue"));
            }
            if self.flow != FlowPattern::default() {
                return Err(RuleError::NotForCommands("flow"));
            }
        } else if self.opcode.is_some() {
            return Err(RuleError::OnlyForCommands);
        }
        if let Some(queue) = self.queue.filter(|queue| *queue >= MAX_QUEUE_PAIRS) {
            return Err(RuleError::Queue(queue));
        }
        for state in [&self.state, &self.enter].into_iter().flatten() {
            if state.is_empty() || state.len() > MAX_STATE {
                return Err(RuleError::State);
            }
        }
        self.check_parameters()
    }

    fn check_parameters(&self) -> Result<(), RuleError> {
        let action = self.action.name();
        let range = |name, value, from, to| {
            if (from..=to).contains(&value) {
                return Ok(());
            }
            Err(RuleError::Range {
                action,
                name,
                value,
                from,
                to,
            })
        };
        match self.action {
            Action::Frame(FrameFault::Duplicate { copies }) => {
                range("copies", copies.get().into(), 1, MAX_COPIES.into())
            }
            Action::Frame(FrameFault::Truncate { length }) => {
                range("length", length.into(), MIN_LENGTH.into(), u32::MAX.into())
            }
            Action::Placement(PlacementFault::ShortBuffer { bytes }) => {
                range("bytes", bytes.into(), 1, u32::MAX.into())
            }
            Action::Placement(PlacementFault::WrongQueue { queue }) if queue >= MAX_QUEUE_PAIRS => {
                Err(RuleError::Queue(queue))
            }
            Action::Frame(FrameFault::Delay { nanoseconds })
            | Action::Port(PortFault::LinkFlap { nanoseconds })
            | Action::Queue(QueueFault::Stall {
                nanoseconds: Some(nanoseconds),
            })
            | Action::Command(CommandFault::Timeout {
                nanoseconds: Some(nanoseconds),
                ..
            }) => range("nanoseconds", nanoseconds, 1, MAX_DELAY),
            Action::Command(CommandFault::Error { status, .. })
                if matches!(status, Status::Ok | Status::Accepted) =>
            {
                Err(RuleError::Status(status))
            }
            _ => Ok(()),
        }
    }
}

/// A rule and its counts.
#[derive(Debug)]
pub struct ArmedRule {
    /// The rule's number.
    pub id: RuleId,
    /// The rule.
    pub rule: Rule,
    seen: AtomicU64,
    hits: AtomicU64,
}

impl ArmedRule {
    pub(super) fn count(&self, hit: bool) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        self.hits.fetch_add(u64::from(hit), Ordering::Relaxed);
    }
}

/// The rules of one direction, in the order in which they were added.
#[derive(Debug)]
pub struct Armed {
    pub(super) rules: Vec<Arc<ArmedRule>>,
    version: u64,
}

/// A rule and its counts, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleStatus {
    /// The rule's number.
    pub id: RuleId,
    /// The rule.
    pub rule: Rule,
    /// Frames and commands that it applied to.
    pub seen: u64,
    /// Frames and commands that it hit.
    pub hits: u64,
}

/// The rules of one port.
///
/// ```
/// use zcnic_device::{
///     fault::{Action, Direction, Engine, FrameFault, Rule, RuleId, When},
///     flow::FlowPattern,
/// };
///
/// let mut engine = Engine::default();
/// let drop_all = Rule {
///     direction: Direction::Receive,
///     queue: Some(2),
///     flow: FlowPattern::default(),
///     opcode: None,
///     state: None,
///     when: When::Always,
///     seed: 0,
///     stream: 0,
///     times: None,
///     action: Action::Frame(FrameFault::Drop),
///     enter: None,
/// };
/// engine.add(vec![drop_all], || RuleId(1)).expect("a valid rule");
/// assert!(engine.armed(Direction::Receive).is_some());
/// assert!(engine.armed(Direction::Transmit).is_none());
/// ```
#[derive(Debug, Default)]
pub struct Engine {
    rules: Vec<Arc<ArmedRule>>,
    /// Changes of the rules so far.
    version: u64,
}

impl Engine {
    /// Adds all rules or none, with the numbers that `next` returns.
    ///
    /// # Errors
    ///
    /// A rule is invalid, or there are too many.
    pub fn add(
        &mut self,
        rules: Vec<Rule>,
        mut next: impl FnMut() -> RuleId,
    ) -> Result<Vec<RuleId>, RuleError> {
        for rule in &rules {
            rule.check()?;
        }
        if self.rules.len() + rules.len() > MAX_RULES {
            return Err(RuleError::TooMany);
        }
        self.version += 1;
        let add = |rule| {
            let id = next();
            self.rules.push(Arc::new(ArmedRule {
                id,
                rule,
                seen: AtomicU64::new(0),
                hits: AtomicU64::new(0),
            }));
            id
        };
        Ok(rules.into_iter().map(add).collect())
    }

    /// Removes a rule; `false` if the number is unknown.
    pub fn remove(&mut self, id: RuleId) -> bool {
        let before = self.rules.len();
        self.version += 1;
        self.rules.retain(|armed| armed.id != id);
        self.rules.len() < before
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.version += 1;
        self.rules.clear();
    }

    /// The rules with their counts, in the order in which they were added.
    pub fn list(&self) -> impl Iterator<Item = RuleStatus> + '_ {
        self.rules.iter().map(|armed| RuleStatus {
            id: armed.id,
            rule: armed.rule.clone(),
            seen: armed.seen.load(Ordering::Relaxed),
            hits: armed.hits.load(Ordering::Relaxed),
        })
    }

    /// The rules that the data path consults for one direction; `None`: no rule applies.
    #[must_use]
    pub fn armed(&self, direction: Direction) -> Option<Armed> {
        let of = |armed: &&Arc<ArmedRule>| armed.rule.direction == direction;
        let rules: Vec<_> = self.rules.iter().filter(of).cloned().collect();
        let version = self.version;
        (!rules.is_empty()).then_some(Armed { rules, version })
    }
}

impl Armed {
    /// Differs between the rules before and after any change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn has(&self, id: RuleId) -> bool {
        self.rules.iter().any(|armed| armed.id == id)
    }
}
