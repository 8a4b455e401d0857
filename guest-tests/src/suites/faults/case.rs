//! A case of the suite: a fault rule, what happens meanwhile, and what the driver counts.

use anyhow::Result;
use serde_json::Value;

use crate::fixture::{lab::Lab, traffic::How};

/// A rule for frame number `$nth` of a stream that is received by zero copy, on the side that receives or on the one
/// that sends.
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

/// One way in which the device misbehaves.
pub(super) struct FaultCase {
    /// What is shown.
    pub(super) name: &'static str,
    /// The port whose device misbehaves: eth0, which receives, is 0, and eth1 1.
    pub(super) port: &'static str,
    /// The rule, in JSON.
    rule: &'static str,
    pub(super) check: Check,
    /// What that port's driver counts.
    pub(super) counted: &'static [Counted],
}

/// What happens meanwhile, and how it must go.
pub(super) enum Check {
    /// Of ten datagrams these arrive, in this order.
    Datagrams(&'static [u8]),
    /// A stream arrives, every byte of it.
    Stream(How),
    /// The same, received by zero copy, and the kernel copied some of it.
    Copied,
    /// Something else, told the rule's number.
    Script(fn(&mut Lab, u64) -> Result<()>),
}

/// A counter of `ethtool -S`, and by how much it goes up at least and at most.
pub(super) struct Counted(pub(super) &'static str, pub(super) u64, pub(super) u64);

/// Whatever the count.
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
        // A wrong one is refused.
        serde_json::from_str(self.rule).unwrap_or_else(|_| self.rule.into())
    }
}
