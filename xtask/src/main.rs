//! Set-up, build, boot and test.

fn main() {}
