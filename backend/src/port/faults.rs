//! The fault rules of a port.
//!
//! A port without rules pays one load per batch and direction. Each change replaces the armed rules
//! of a direction as a whole; a batch uses those that it found at its start.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, Ordering},
};

use zcnic_device::fault::{Armed, Direction, Engine, Rule, RuleError, RuleId, RuleStatus};

use crate::sync::lock;

/// All directions, in the order of their discriminants.
pub(crate) const DIRECTIONS: [Direction; 3] =
    [Direction::Receive, Direction::Transmit, Direction::Command];

/// The fault rules of one port.
///
/// Lock order: the engine, then the armed rules of one direction.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    engine: Mutex<Engine>,
    armed: [Mutex<Option<Arc<Armed>>>; DIRECTIONS.len()],
    /// A bit for each direction that has rules.
    any: AtomicU8,
}

impl Faults {
    /// The armed rules of one direction; the data path asks once per batch.
    pub(crate) fn armed(&self, direction: Direction) -> Option<Arc<Armed>> {
        if cfg!(feature = "without-faults") {
            return None;
        }
        if self.any.load(Ordering::Acquire) & 1 << direction as u8 == 0 {
            return None;
        }
        lock(&self.armed[direction as usize]).clone()
    }

    /// Adds all rules or none, numbered by `next`; returns their numbers.
    ///
    /// # Errors
    ///
    /// There are too many rules, or a rule is invalid.
    pub(crate) fn add(
        &self,
        rules: Vec<Rule>,
        next: impl FnMut() -> RuleId,
    ) -> Result<Vec<RuleId>, RuleError> {
        let mut engine = lock(&self.engine);
        let ids = engine.add(rules, next)?;
        self.publish(&engine);
        Ok(ids)
    }

    /// Removes a rule; returns whether it existed. Its held-back frames stay in their lane.
    pub(crate) fn remove(&self, id: RuleId) -> bool {
        self.change(|engine| engine.remove(id))
    }

    /// Removes all rules. Their held-back frames stay in their lanes.
    pub(crate) fn clear(&self) {
        self.change(Engine::clear);
    }

    /// The rules with their counts.
    pub(crate) fn list(&self) -> Vec<RuleStatus> {
        lock(&self.engine).list().collect()
    }

    /// One rule with its counts.
    pub(crate) fn get(&self, id: RuleId) -> Option<RuleStatus> {
        lock(&self.engine).list().find(|rule| rule.id == id)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = lock(&self.engine);
        let result = change(&mut engine);
        self.publish(&engine);
        result
    }

    fn publish(&self, engine: &Engine) {
        let mut any = 0;
        for direction in DIRECTIONS {
            let armed = engine.armed(direction).map(Arc::new);
            any |= u8::from(armed.is_some()) << direction as u8;
            *lock(&self.armed[direction as usize]) = armed;
        }
        self.any.store(any, Ordering::Release);
    }
}
