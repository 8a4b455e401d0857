//! `zcnic-lab`: the commands of `cargo xtask` that work without a checkout.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::zcnic_lab()
}
