//! Sets the version that zcnic-guest prints.

fn main() {
    zcnic_version::emit(&[".", "protocol", "../ctl"]);
}
