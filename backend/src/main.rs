//! zcnic, a vhost-user network card for testing zero-copy receive.

fn main() {}
