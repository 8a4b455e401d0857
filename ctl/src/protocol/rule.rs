//! Fault rules and actions, built in code.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use super::{
    FlowMatch,
    fault::{Action, CommandStatus, Direction, FaultRule, Opcode},
    nanoseconds,
};

/// Counts begin with one.
const COUNTED_FROM_ONE: &str = "a count of frames begins with 1";

impl FaultRule {
    /// A rule that hits every frame or command of this direction.
    #[must_use]
    pub fn new(direction: Direction, action: Action) -> Self {
        Self {
            direction,
            queue: None,
            pattern: None,
            opcode: None,
            state: None,
            nth: None,
            every: None,
            probability: None,
            seed: None,
            stream: None,
            times: None,
            enter: None,
            action,
        }
    }

    /// A rule for frames that the port receives.
    ///
    /// ```
    /// use zcnic_ctl::{Action, FaultRule};
    ///
    /// let rule = FaultRule::rx(Action::Drop).nth(3).queue(2);
    /// assert_eq!(
    ///     serde_json::to_string(&rule)?,
    ///     r#"{"direction":"rx","queue":2,"nth":3,"action":"drop"}"#,
    /// );
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn rx(action: Action) -> Self {
        Self::new(Direction::Rx, action)
    }

    /// A rule for frames that the port sends.
    #[must_use]
    pub fn tx(action: Action) -> Self {
        Self::new(Direction::Tx, action)
    }

    /// A rule for commands of the port's driver.
    #[must_use]
    pub fn command(action: Action) -> Self {
        Self::new(Direction::Command, action)
    }

    /// Applies only to this queue.
    #[must_use]
    pub fn queue(mut self, queue: u16) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Applies only to frames of this flow.
    #[must_use]
    pub fn flow(mut self, flow: FlowMatch) -> Self {
        self.pattern = Some(flow);
        self
    }

    /// Applies only to commands with this opcode.
    #[must_use]
    pub fn opcode(mut self, opcode: Opcode) -> Self {
        self.opcode = Some(opcode);
        self
    }

    /// Hits this frame only, counted from 1 per queue. Replaces another trigger.
    ///
    /// # Panics
    ///
    /// `nth` is 0.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        (self.every, self.probability) = (None, None);
        self.nth = Some(NonZeroU64::new(nth).expect(COUNTED_FROM_ONE));
        self
    }

    /// Hits each multiple of this number. Replaces another trigger.
    ///
    /// # Panics
    ///
    /// `every` is 0.
    #[must_use]
    pub fn every(mut self, every: u64) -> Self {
        (self.nth, self.probability) = (None, None);
        self.every = Some(NonZeroU64::new(every).expect(COUNTED_FROM_ONE));
        self
    }

    /// Hits each frame with this probability, 0 to 1. Replaces another trigger.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        (self.nth, self.every) = (None, None);
        self.probability = Some(probability);
        self
    }

    /// Seed of the random draws.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The most hits on each queue.
    ///
    /// # Panics
    ///
    /// `times` is 0.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(NonZeroU64::new(times).expect(COUNTED_FROM_ONE));
        self
    }

    /// Applies only while the queue is in this state.
    #[must_use]
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// The state that the queue enters with a hit.
    #[must_use]
    pub fn enter(mut self, state: impl Into<String>) -> Self {
        self.enter = Some(state.into());
        self
    }
}

/// Actions whose parameters are times or counts from 1.
impl Action {
    /// The frame arrives later by `time`.
    #[must_use]
    pub fn delay(time: Duration) -> Self {
        let nanoseconds = nanoseconds(time);
        Self::Delay { nanoseconds }
    }

    /// The queue stalls for `time`.
    #[must_use]
    pub fn stall(time: Duration) -> Self {
        let nanoseconds = Some(nanoseconds(time));
        Self::Stall { nanoseconds }
    }

    /// The carrier is off for `time`.
    #[must_use]
    pub fn link_flap(time: Duration) -> Self {
        let nanoseconds = nanoseconds(time);
        Self::LinkFlap { nanoseconds }
    }

    /// This many further copies of the frame arrive.
    ///
    /// # Panics
    ///
    /// `copies` is 0.
    #[must_use]
    pub fn duplicate(copies: u32) -> Self {
        let copies = NonZeroU32::new(copies).expect(COUNTED_FROM_ONE);
        Self::Duplicate { copies }
    }

    /// The frame arrives behind this many frames that follow it.
    ///
    /// # Panics
    ///
    /// `by` is 0.
    #[must_use]
    pub fn reorder(by: u32) -> Self {
        let by = NonZeroU32::new(by).expect(COUNTED_FROM_ONE);
        Self::Reorder { by }
    }

    /// The command is answered with this status and not executed.
    #[must_use]
    pub fn command_error(status: CommandStatus) -> Self {
        Self::CommandError { status, detail: 0 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn a_rule_has_one_trigger() {
        let rule = FaultRule::tx(Action::delay(Duration::from_micros(5)))
            .nth(1)
            .every(10)
            .times(2);
        let expected = json!({"direction": "tx", "every": 10, "times": 2,
            "action": {"delay": {"nanoseconds": 5000}}});
        assert_eq!(to_value(rule).expect("JSON"), expected);
        let rule = FaultRule::command(Action::command_error(CommandStatus::NoSpace))
            .opcode(Opcode::RuleSet)
            .every(3)
            .probability(0.5);
        let expected = json!({"direction": "command", "opcode": "rule-set", "probability": 0.5,
            "action": {"command-error": {"status": "no-space", "detail": 0}}});
        assert_eq!(to_value(rule).expect("JSON"), expected);
    }

    #[test]
    #[should_panic(expected = "begins with 1")]
    fn frames_are_counted_from_one() {
        let _ = FaultRule::rx(Action::Drop).nth(0);
    }

    #[test]
    fn a_probability_that_is_no_number_is_not_sent() {
        for probability in [f64::NAN, f64::INFINITY] {
            let rule = FaultRule::rx(Action::Drop).probability(probability);
            let error = serde_json::to_string(&rule).expect_err("no number");
            assert!(
                error.to_string().ends_with("is not between 0 and 1"),
                "{error}"
            );
        }
    }
}
