//! Sets the version that zcnicctl prints.

fn main() {
    zcnic_version::emit(&[".", "..", "../cli"]);
}
