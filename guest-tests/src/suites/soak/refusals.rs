//! Errors with which the kernel may refuse an operation, because of what else is going on.

use zcnic_guest_protocol::soak::Operation;

/// A connection can't be made during an outage of the link.
const NO_CONNECTION: [&str; 2] = ["No route to host", "Network is unreachable"];

/// Whether these words of an error are a refusal of the operation, and no failure.
pub(super) fn is_refusal(operation: &Operation, error: &str) -> bool {
    let connects = matches!(
        operation,
        Operation::Stream { .. } | Operation::ZeroCopy { .. } | Operation::Devmem { .. }
    );
    let words = of_kind(operation).iter();
    let words = words.chain(NO_CONNECTION.iter().filter(|_| connects));
    words.into_iter().any(|words| error.contains(words))
}

fn of_kind(operation: &Operation) -> &'static [&'static str] {
    match operation {
        Operation::Channels { .. } => &[
            "requested channel counts are too low for existing",
            // A table of RSS can't be folded.
            "netlink error: Invalid argument",
        ],
        Operation::Split { on: false } => &["while device has memory provider enabled"],
        // Sockets of AF_XDP and XDP programs limit frames to a buffer.
        Operation::Mtu { .. } => &["RTNETLINK answers", "Error: zcnic: "],
        Operation::Rings { .. } => &["zcnic: ", "Device or resource busy"],
        Operation::Feature { .. } => &["Could not change any device features"],
        Operation::ZeroCopy { .. } => &[
            "already has a memory provider, or eth0 has an XDP program",
            "in use by AF_XDP",
            "header/data split is not enabled",
            "has no receive queue",
            // Flow rules are off, or the queue is not there.
            "Cannot insert RX class rule",
        ],
        Operation::Devmem { .. } => &[
            "Cannot insert RX class rule",
            "File exists",
            "Device or resource busy",
            "Invalid argument",
            "Numerical result out of range",
        ],
        Operation::Echo { .. } => &[
            "Device or resource busy",
            "File exists",
            "Invalid argument",
            "Numerical result out of range",
        ],
        Operation::Rule { .. } => &["Cannot insert RX class rule"],
        Operation::DeleteRule { .. } => &["Cannot delete RX class rule"],
        Operation::Context { new: true } => &["No space left on device"],
        Operation::Suspend => &["No such file or directory"],
        _ => &[],
    }
}
