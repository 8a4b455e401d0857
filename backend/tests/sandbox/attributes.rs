//! The program's processes as the kernel describes them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use zcnic_ctl::client::Client;

/// `zcnic` with a port and a control socket in `directory`.
fn start(directory: &Path, options: &[&str]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zcnic"))
        .arg("--port")
        .arg(format!("path={}", directory.join("socket").display()))
        .arg("--control")
        .arg(directory.join("control"))
        .args(options)
        .env("RUST_LOG", "warn")
        .stderr(Stdio::piped())
        .spawn()
        .expect("zcnic runs");
    let start = std::time::Instant::now();
    while Client::connect(&directory.join("control")).is_err() {
        assert_eq!(child.try_wait().expect("a process"), None);
        assert!(start.elapsed() < zcnic_model::vhost_user::PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child
}

/// The values of `field` in the status files of all threads of a process.
fn of_threads(child: &Child, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).expect("threads");
    tasks
        .filter_map(|task| {
            let status = task.expect("a thread").path().join("status");
            // A thread that served a client may have ended meanwhile.
            let status = fs::read_to_string(status).ok()?;
            let line = status.lines().find(|line| line.starts_with(field));
            let (_, value) = line.expect(field).split_once(':').expect("a value");
            Some(value.trim().to_owned())
        })
        .collect()
}

fn terminate(mut child: Child) -> String {
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    let mut text = String::new();
    let mut stderr = child.stderr.take().expect("stderr");
    std::io::Read::read_to_string(&mut stderr, &mut text).expect("text");
    assert!(child.wait().expect("it ends").success(), "{text}");
    text
}

#[test]
fn every_thread_is_filtered_and_gains_no_privileges_by_default() {
    let directory = tempfile::tempdir().expect("directory");
    let child = start(directory.path(), &[]);
    for (field, expected) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let values = of_threads(&child, field);
        assert!(values.len() > 4, "threads were found");
        assert!(values.iter().all(|value| value == expected), "{values:?}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "soft and hard");
    assert_eq!(
        terminate(child),
        "",
        "a kernel with Landlock needs no remark"
    );
    assert!(
        fs::read_dir(directory.path())
            .expect("directory")
            .next()
            .is_none()
    );
}

#[test]
fn off_confines_nothing_and_warn_only_watches() {
    let directory = tempfile::tempdir().expect("directory");
    let child = start(directory.path(), &["--sandbox", "off"]);
    let filtered = of_threads(&child, "Seccomp:");
    assert!(filtered.iter().all(|value| value == "0"), "{filtered:?}");
    assert_eq!(terminate(child), "");

    let child = start(directory.path(), &["--sandbox", "warn"]);
    // But for the thread that watches, and those that started before it.
    let filtered = of_threads(&child, "Seccomp:");
    let watched = filtered.iter().filter(|value| *value == "2");
    assert!(watched.count() > 4, "{filtered:?}");
    // The allocator tries to read /proc/sys/vm/overcommit_memory when a thread ends, and does without.
    let text = terminate(child);
    let refused = text.lines().filter(|line| !line.contains("refuse openat"));
    assert_eq!(refused.count(), 0, "{text}");
}
