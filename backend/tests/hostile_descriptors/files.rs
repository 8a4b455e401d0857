//! Sockets in directories that others can write to.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    process::Command,
};

use super::daemon::{ATTACKER, Daemon};

/// The permissions of the sockets of a daemon that is started with `umask` and `options`.
fn modes(umask: &str, options: &[&str]) -> [u32; 2] {
    let directory = tempfile::tempdir().expect("directory");
    let inner = super::daemon::command(super::daemon::program(), directory.path());
    let mut outer = Command::new("sh");
    let script = format!("umask {umask} && exec \"$0\" \"$@\"");
    outer.args(["-c", &script]).arg(super::daemon::program());
    outer.args(inner.get_args()).args(options);
    let log = fs::File::create(directory.path().join("log")).expect("log");
    outer.stderr(log);
    let daemon = Daemon::run(outer, directory);
    let modes = [daemon.path(ATTACKER), daemon.control_path()].map(|path| {
        let found = fs::metadata(path).expect("a socket");
        found.mode() & 0o777
    });
    daemon.assert_unharmed_to_the_end();
    modes
}

#[test]
fn sockets_are_their_owners_whatever_the_umask() {
    for umask in ["0", "022", "077", "0177"] {
        assert_eq!(modes(umask, &[]), [0o600, 0o600], "umask {umask}");
    }
    for umask in ["0", "077"] {
        let group = modes(umask, &["--socket-mode", "660"]);
        assert_eq!(group, [0o660, 0o600], "umask {umask}");
    }
}

#[test]
fn nothing_beside_a_socket_is_touched() {
    let daemon = Daemon::start();
    let directory = daemon.directory.path();
    let victim = directory.join("victim");
    fs::create_dir(&victim).expect("directory");
    fs::write(victim.join("daemon"), "precious").expect("file");
    let beside = directory.join(format!("{ATTACKER}.sock.d"));
    symlink(&victim, &beside).expect("link");
    drop(daemon.driver(ATTACKER));
    assert_eq!(
        fs::read(victim.join("daemon")).expect("it is there"),
        b"precious"
    );
    fs::remove_file(&beside).expect("link");
    fs::create_dir(&beside).expect("directory");
    fs::write(beside.join("x"), "precious").expect("file");
    drop(daemon.driver(ATTACKER));
    assert_eq!(
        fs::read(beside.join("x")).expect("it is there"),
        b"precious"
    );
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn no_path_of_one_port_is_in_the_way_of_another() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("2.sock.d");
    let daemon = Daemon::configured(|command| {
        let beside = command
            .get_args()
            .find(|word| word.to_string_lossy().ends_with("2.sock"))
            .expect("port 2")
            .to_owned();
        let beside = format!("{}.d,name=beside", beside.to_string_lossy());
        command.args(["--port", &beside, "--wire", "beside=null"]);
    });
    drop(path);
    let beside = daemon.path(ATTACKER).with_extension("sock.d");
    for _ in 0..2 {
        drop(daemon.driver(ATTACKER));
        drop(zcnic_model::vhost_user::connect(&beside, 2, 64));
    }
    assert!(beside.exists());
    assert_eq!(daemon.control().status().expect("status").ports.len(), 5);
}

#[test]
fn frontends_are_served_in_a_directory_that_became_read_only() {
    let daemon = Daemon::start();
    let directory = daemon.directory.path().to_owned();
    fs::set_permissions(&directory, Permissions::from_mode(0o500)).expect("permissions");
    drop(daemon.driver(ATTACKER));
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).expect("permissions");
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn files_that_are_no_sockets_are_left_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "precious").expect("file");
    symlink(at("file"), at("link")).expect("link");
    symlink(at("nowhere"), at("dangling")).expect("link");
    fs::create_dir(at("directory")).expect("directory");
    for name in ["file", "link", "dangling", "directory"] {
        for option in ["--port", "--control"] {
            let mut command = Command::new(super::daemon::program());
            let path = at(name);
            if option == "--control" {
                command
                    .arg("--port")
                    .arg(format!("path={}", at("ok").display()));
                command.arg("--control").arg(&path);
            } else {
                command
                    .arg("--port")
                    .arg(format!("path={}", path.display()));
            }
            let output = command.output().expect("it runs");
            let text = String::from_utf8(output.stderr).expect("text");
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("exists and is not a socket"), "{text}");
            assert!(!at("ok").exists() && !at("nowhere").exists());
        }
    }
    assert_eq!(fs::read(at("file")).expect("it is there"), b"precious");
    assert!(at("link").is_symlink() && at("dangling").is_symlink());
}
