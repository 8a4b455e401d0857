//! Tests in a network namespace of their own.
//!
//! A test runs itself again in a new network namespace. That takes root, or user namespaces and an
//! accessible `/dev/net/tun`; without either a test reports that it is skipped.

use std::{
    fs::OpenOptions,
    process::{Command, Stdio},
};

use rustix::process::geteuid;

/// Set in the environment of a test that has its namespace.
const INSIDE: &str = "ZCNIC_TEST_NAMESPACE";

/// Runs `test`, called `name`, in a network namespace.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(arguments).stdin(Stdio::null());
        command
    };
    let namespaces: &[&str] = if geteuid().is_root() {
        &["--net"]
    } else {
        &["--net", "--user", "--map-root-user"]
    };
    let may = unshare(namespaces)
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success())
        && OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .is_ok();
    if !may {
        assert!(
            !geteuid().is_root(),
            "root has neither namespaces nor /dev/net/tun"
        );
        eprintln!("skipped {name}: this user has no network namespace or no /dev/net/tun");
        return;
    }
    let output = unshare(namespaces)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "")
        .output()
        .expect("unshare runs");
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{out}{error}"
    );
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status();
    assert!(status.expect("ip runs").success(), "ip {arguments}");
}
