//! Kernels that lack a part of the sandbox. A filter that makes a system call unknown stands for
//! them.

use std::{collections::BTreeMap, thread};

use libc::{ENOSYS, SYS_landlock_create_ruleset, SYS_seccomp};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use zcnic_backend::SandboxMode;

use super::inside::{enter, kept, passes_in_process};

/// Has `call` fail from now on as on a kernel that never heard of it.
fn without(call: i64) {
    let unknown = SeccompAction::Errno(ENOSYS.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().expect("known");
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, architecture);
    let filter: BpfProgram = filter.expect("a filter").try_into().expect("a program");
    apply_filter(&filter).expect("a kernel with seccomp");
}

#[test]
fn without_landlock_one_line_says_so_and_calls_are_filtered() {
    let name = "kernels::without_landlock_one_line_says_so_and_calls_are_filtered";
    let error = passes_in_process(name, || {
        env_logger::builder()
            .filter_level(log::LevelFilter::Warn)
            .init();
        let directory = kept(tempfile::tempdir().expect("directory"));
        std::fs::write(directory.join("beside"), "").expect("write");
        without(SYS_landlock_create_ruleset);
        let backend = enter(SandboxMode::Enforce, &directory).expect("backend starts");
        let opened = std::fs::read("/etc/passwd").map_err(|error| error.kind());
        assert_eq!(opened, Err(std::io::ErrorKind::PermissionDenied));
        // Without Landlock nothing would bound the files that could be removed, so none are.
        backend.stop();
        assert!(directory.join("socket").exists());
    });
    if !error.is_empty() {
        let line = "Sandbox: this kernel has no Landlock";
        assert_eq!(error.matches(line).count(), 1, "{error}");
    }
}

#[test]
fn without_seccomp_it_does_not_start() {
    passes_in_process("kernels::without_seccomp_it_does_not_start", || {
        let directory = kept(tempfile::tempdir().expect("directory"));
        without(SYS_seccomp);
        for mode in [SandboxMode::Enforce, SandboxMode::Warn] {
            // Landlock's rules hold for the thread that tried.
            let entered = thread::scope(|scope| {
                let enters = scope.spawn(|| enter(mode, &directory).map(drop));
                enters.join().expect("no panic")
            });
            let error = entered.expect_err("no filter").to_string();
            assert!(error.contains("system calls"), "{error}");
        }
    });
}
