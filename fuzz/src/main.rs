//! The fuzzer: libFuzzer over the target that the environment names.

#![no_main]

use std::sync::LazyLock;

use zcnic_fuzz::{TARGETS, Target};

/// The variable with the target's name.
const VARIABLE: &str = "ZCNIC_FUZZ_TARGET";

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == wanted);
    *found.unwrap_or_else(|| panic!("{VARIABLE} is {wanted:?}, which is no target"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
