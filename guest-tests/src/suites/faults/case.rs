//! A case of the suite: a fault rule, the traffic meanwhile, and the counters that go up.

use anyhow::Result;
use serde_json::Value;
use zcnic_ctl::FaultId;

use crate::fixture::{lab::Lab, traffic::How};

/// A rule for frame number `$nth` of the zero-copy stream, on the receiving or on the sending side.
macro_rules! nth {
    ($nth:literal, $direction:literal, $action:literal) => {
        concat!(
            r#"{"direction":""#,
            $direction,
            r#"","match":{"protocol":"tcp","destination-port":4433},"nth":"#,
            $nth,
            r#","action":"#,
            $action,
            "}"
        )
    };
}
pub(super) use nth;

/// A fault, and the driver's reaction to it.
pub(super) struct FaultCase {
    /// `action, direction: statement`.
    pub(super) name: &'static str,
    /// The port that misbehaves: 0 is eth0, which receives, and 1 is eth1.
    pub(super) port: &'static str,
    /// The rule, in JSON.
    rule: &'static str,
    pub(super) check: Check,
    /// Counters of that port's driver.
    pub(super) counted: &'static [Counted],
}

/// Traffic while the rule is armed, and its result.
pub(super) enum Check {
    /// Of ten datagrams, those with these numbers arrive, in this order.
    Datagrams(&'static [u8]),
    /// A stream arrives, with every byte right.
    Stream(How),
    /// The same, received by zero copy, and the kernel copies some of it.
    Copied,
    /// Another check, called with the rule's number.
    Script(fn(&mut Lab, FaultId) -> Result<()>),
}

/// A counter of `ethtool -S`, and the least and greatest number that it goes up by.
pub(super) struct Counted(pub(super) &'static str, pub(super) u64, pub(super) u64);

/// No upper limit.
pub(super) const ANY: u64 = u64::MAX;

impl FaultCase {
    pub(super) const fn new(
        name: &'static str,
        port: &'static str,
        rule: &'static str,
        check: Check,
    ) -> Self {
        Self {
            name,
            port,
            rule,
            check,
            counted: &[],
        }
    }

    pub(super) const fn counts(self, counted: &'static [Counted]) -> Self {
        Self { counted, ..self }
    }

    pub(super) fn rule(&self) -> Value {
        // The device refuses a malformed rule.
        serde_json::from_str(self.rule).unwrap_or_else(|_| self.rule.into())
    }
}
