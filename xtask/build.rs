//! Sets the version that zcnic-lab prints.

fn main() {
    zcnic_version::emit(&[".", "results", "testbed", "../guest-tests/protocol"]);
}
