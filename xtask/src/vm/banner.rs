//! The text above the first prompt of an interactive shell.

use std::{fmt::Write, sync::Arc};

use zcnic_testbed::{paths, share::Share};

/// The addresses are those of `zcnic-guest ports`.
const PORTS: &str = "
  eth0  192.0.2.1  2001:db8::1
  eth1  192.0.2.2  2001:db8::2   in the network namespace peer: ip netns exec peer COMMAND
";

/// A stream by io_uring zero-copy receive, and a look at the device.
const COMMANDS: &str = "
  zcnic-guest flow-steer --interface eth0 --queue 3 --port 4433
  zcnic-guest receive --interface eth0 --queue 3 --port 4433 --bytes 100000000 &
  zcnic-guest send --netns peer --to 192.0.2.1:4433 --bytes 100000000
  zcnicctl stats
";

/// Returns the text for a guest that has `shares` and can be attached to by `name`.
pub(super) fn text(shares: &[Arc<Share>], name: &str) -> String {
    let mut text = PORTS.to_owned();
    for share in shares {
        let _ = writeln!(text, "  /mnt/{}  a directory of the host", share.name());
    }
    text.push_str(COMMANDS);
    let attach = paths::invocation(&format!("vm --attach {name}"));
    let _ = writeln!(
        text,
        "\n  another shell: {attach}\
         \n  to leave: exit; if the guest hangs: Ctrl-] three times\n"
    );
    text
}
