//! The configuration for the netdev CI has the options that `zcnic qemu-args` prints.

use std::{fs, process::Command};

const CONFIG: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../images/netdev-ci/zcnic.config"
);

#[test]
fn the_executor_gets_the_options_that_qemu_args_prints() {
    let arguments = "qemu-args --memory 4G --queues 66 --port path=/run/zcnic/a.sock \
                     --port path=/run/zcnic/b.sock";
    let printed = Command::new(env!("CARGO_BIN_EXE_zcnic"))
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let line = printed.replace("\\\n", "");
    // vng has its own machine and size of memory.
    let line = line.replace(
        "-machine q35,memory-backend=mem",
        "-machine memory-backend=mem",
    );
    let line = line.replace("-m 4G ", "");
    let wanted: Vec<_> = line.split_whitespace().collect();

    let config = fs::read_to_string(CONFIG).unwrap();
    let own = config
        .lines()
        .find_map(|line| line.strip_prefix("qemu_opt="))
        .unwrap();
    assert_eq!(own.split_whitespace().collect::<Vec<_>>(), wanted);
    assert!(config.contains("\nmem=4G\n"));
}
