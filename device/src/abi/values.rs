//! The enumerations of the ABI.

/// Declares an enum of the ABI with its values, the list of them, and the conversions from and to
/// its wire type.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        $name:ident: $wire:ty { $($(#[$variant_meta:meta])* $variant:ident = $value:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($wire)]
        pub enum $name {
            $($(#[$variant_meta])* $variant = $value,)+
        }

        impl $name {
            /// All of them, in the order of their values.
            pub const ALL: [Self; [$($value),+].len()] = [$(Self::$variant),+];
        }

        impl TryFrom<$wire> for $name {
            type Error = $crate::abi::UnknownValue;

            fn try_from(value: $wire) -> Result<Self, $crate::abi::UnknownValue> {
                match value {
                    $($value => Ok(Self::$variant),)+
                    _ => Err($crate::abi::UnknownValue(value.into())),
                }
            }
        }

        impl From<$name> for $wire {
            fn from(value: $name) -> Self {
                value as Self
            }
        }
    };
}
pub(crate) use wire_enum;

/// A field of an enumerated type holds a value that this version of the ABI does not define.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value {0} is not defined")]
pub struct UnknownValue(pub u32);

wire_enum! {
    /// The fields that a receive hash covers.
    HashType: u8 {
        /// There is no hash.
        None = 0,
        /// IPv4 addresses.
        Ipv4 = 1,
        /// TCP over IPv4.
        Tcp4 = 2,
        /// UDP over IPv4.
        Udp4 = 3,
        /// IPv6 addresses.
        Ipv6 = 4,
        /// TCP over IPv6.
        Tcp6 = 5,
        /// UDP over IPv6.
        Udp6 = 6,
    }
}

wire_enum! {
    /// The segmentation of a frame.
    GsoType: u8 {
        /// No segmentation.
        None = 0,
        /// TCP over IPv4.
        Tcp4 = 1,
        /// TCP over IPv6.
        Tcp6 = 2,
        /// UDP over IPv4 or IPv6.
        Udp = 3,
    }
}

wire_enum! {
    /// The commands.
    Opcode: u16 {
        /// Begins a session; legal in any state.
        Hello = 1,
        /// Starts a receive queue.
        RxqStart = 3,
        /// Stops a receive queue and returns its buffers.
        RxqStop = 4,
        /// Starts a transmit queue.
        TxqStart = 5,
        /// Stops a transmit queue.
        TxqStop = 6,
        /// Sets or creates an RSS context.
        RssSet = 7,
        /// Deletes an RSS context.
        RssDel = 8,
        /// Sets flow rules.
        RuleSet = 9,
        /// Deletes flow rules.
        RuleDel = 10,
        /// Sets the address filter.
        RxMode = 11,
        /// Switches negotiated features on and off.
        Offloads = 12,
        /// Sets interrupt moderation.
        Coalesce = 13,
        /// Reads counters.
        Stats = 14,
        /// Reads link and queue state.
        Status = 15,
        /// Reads the clock.
        Clock = 16,
        /// Limits the length of received frames.
        Mtu = 17,
        /// Steps the port's clock and sets its frequency.
        ClockAdjust = 18,
    }
}

wire_enum! {
    /// How a command ended.
    Status: u16 {
        /// Executed.
        Ok = 0,
        /// Started; an event reports the end.
        Accepted = 1,
        /// The session is not the current one; nothing was executed.
        Stale = 2,
        /// A field was refused; detail: its byte offset in the request.
        Invalid = 3,
        /// The opcode is unknown or needs a feature that was not negotiated.
        Unsupported = 4,
        /// A table is full; detail: its size.
        NoSpace = 5,
        /// Detail: the number that does not exist.
        NotFound = 6,
        /// The object is in use or in the other state.
        Busy = 7,
        /// No common version; detail: the newest the device speaks.
        Version = 8,
    }
}

wire_enum! {
    /// The shape of a queue's receive chains.
    RxShape: u8 {
        /// One descriptor: receive header and frame bytes.
        Linear = 0,
        /// Two descriptors: receive header and frame headers, then payload.
        Split = 1,
    }
}

wire_enum! {
    /// Flow types, which select hash fields: indexes of [`RssSet::fields`](super::RssSet::fields).
    FlowType: u8 {
        /// IPv4 that is neither TCP nor UDP, and every fragment.
        Ipv4 = 0,
        /// TCP over IPv4.
        Tcp4 = 1,
        /// UDP over IPv4.
        Udp4 = 2,
        /// IPv6 that is neither TCP nor UDP, and every fragment.
        Ipv6 = 3,
        /// TCP over IPv6.
        Tcp6 = 4,
        /// UDP over IPv6.
        Udp6 = 5,
    }
}

wire_enum! {
    /// Transforms that make both directions of a flow hash alike.
    RssSymmetric: u16 {
        /// No transform.
        Asymmetric = 0,
        /// Source XOR destination in both places (kernel `RXH_XFRM_SYM_XOR`).
        SymXor = 1,
        /// Source OR destination, then source XOR destination (kernel `RXH_XFRM_SYM_OR_XOR`).
        SymOrXor = 2,
    }
}

wire_enum! {
    /// The frames that a flow rule matches.
    RuleType: u8 {
        /// Any frame.
        Ether = 0,
        /// Any IPv4.
        Ipv4 = 1,
        /// TCP over IPv4.
        Tcp4 = 2,
        /// UDP over IPv4.
        Udp4 = 3,
        /// Any IPv6.
        Ipv6 = 4,
        /// TCP over IPv6.
        Tcp6 = 5,
        /// UDP over IPv6.
        Udp6 = 6,
    }
}

wire_enum! {
    /// The action of a flow rule.
    RuleAction: u8 {
        /// Drops it.
        Drop = 0,
        /// Steers it to the rule's queue.
        Queue = 1,
        /// Steers it to the rule's queue plus the entry of the context's table.
        Context = 2,
    }
}
