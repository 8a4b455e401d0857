//! Sets the version that zcnic prints.

fn main() {
    zcnic_version::emit(&[".", "../ctl", "../device"]);
}
