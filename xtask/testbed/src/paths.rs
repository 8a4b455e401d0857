//! Where the running program finds what guests are made of: in an installation, or in the workspace
//! that it was built from, with the cargo that builds it.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::OnceLock,
};

use anyhow::{Result, ensure};

use crate::{provision::host, step::run};

/// The workspace that this crate was built from. A package has none, and no path of the machine that
/// built it.
const WORKSPACE: Option<&str> = match option_env!("ZCNIC_PACKAGE") {
    Some(_) => None,
    None => Some(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")),
};

/// An installation, which needs neither workspace nor cargo: `PREFIX/bin`, `PREFIX/lib/zcnic` and
/// `PREFIX/share/zcnic`. It may be moved as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    prefix: PathBuf,
}

impl Installation {
    /// Returns the installation that the running program belongs to, if it does to one.
    pub fn current() -> Option<&'static Self> {
        static CURRENT: OnceLock<Option<Installation>> = OnceLock::new();
        CURRENT
            .get_or_init(|| Self::around(&env::current_exe().ok()?))
            .as_ref()
    }

    /// Returns the installation that has `program` in its `bin`.
    fn around(program: &Path) -> Option<Self> {
        let bin = program.parent().filter(|bin| bin.ends_with("bin"))?;
        let prefix = bin.parent()?.to_owned();
        let installation = Self { prefix };
        installation.images().is_dir().then_some(installation)
    }

    /// A program for users.
    pub fn program(&self, name: &str) -> PathBuf {
        self.prefix.join("bin").join(name)
    }

    /// A program that only others call.
    pub fn helper(&self, name: &str) -> PathBuf {
        self.prefix.join("lib/zcnic").join(name)
    }

    fn images(&self) -> PathBuf {
        self.prefix.join("share/zcnic/images")
    }

    /// The commit that it was built from.
    fn commit(&self) -> Option<String> {
        let text = fs::read_to_string(self.prefix.join("share/zcnic/commit")).ok()?;
        Some(text.trim().to_owned())
    }
}

/// Returns the root of the workspace that this crate was built from.
///
/// # Panics
///
/// In a package, which has none; callers ask for an [`Installation`] first.
pub fn workspace() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let path = Path::new(WORKSPACE.expect("a package is run where it is installed"));
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    })
}

/// Returns the directory of the recipes for guests and of the driver's source.
pub fn images() -> PathBuf {
    Installation::current().map_or_else(|| workspace().join("images"), Installation::images)
}

/// Checks that what guests are made of is there: [`images`] can be used from then on.
///
/// # Errors
///
/// A program of a package was copied out of it, or the checkout that `cargo install` installed from
/// has been moved.
pub fn require() -> Result<()> {
    if Installation::current().is_some() {
        return Ok(());
    }
    let Some(path) = WORKSPACE else {
        anyhow::bail!(
            "{} is not in its installation: run it from the bin beside share/zcnic",
            env::current_exe().unwrap_or_default().display()
        );
    };
    let images = Path::new(path).join("images");
    ensure!(
        images.is_dir(),
        "this program was built from a checkout that is gone: {} does not exist; install it again",
        images.display()
    );
    Ok(())
}

/// Returns cargo's target directory for builds of the workspace.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |set| workspace().join(set))
}

/// Returns the commit of the installation or of the workspace, with `-dirty` if it has changes; None
/// outside a checkout.
pub fn commit() -> Option<String> {
    if let Some(installation) = Installation::current() {
        return installation.commit();
    }
    let described = run(host::command("git").arg("-C").arg(workspace()).args([
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]));
    Some(described.ok()?.trim().to_owned())
}

/// Returns a command for the cargo that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = host::command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// Returns how the user calls the command `arguments` of the running program, for messages: through
/// cargo, or as the installed `zcnic-lab`.
pub fn invocation(arguments: &str) -> String {
    let called = env::args_os().next().map(PathBuf::from);
    let installed = called.is_some_and(|path| path.ends_with("zcnic-lab"));
    let program = if installed {
        "zcnic-lab"
    } else {
        "cargo xtask"
    };
    format!("{program} {arguments}")
}

/// Returns a directory of the XDG base directory specification: the value of `variable`, or else
/// `default` below the user's home.
pub fn base_directory(variable: &str, default: &str) -> Option<PathBuf> {
    chosen_or_default(env::var_os(variable), env::home_dir(), default)
}

/// Returns the directory that `chosen` names. The specification has programs ignore a relative path.
fn chosen_or_default(
    chosen: Option<OsString>,
    home: Option<PathBuf>,
    default: &str,
) -> Option<PathBuf> {
    let chosen = chosen.map(PathBuf::from).filter(|path| path.is_absolute());
    chosen.or_else(|| Some(home?.join(default)))
}

/// Returns a command for the running program, also after its file was replaced, as cargo does when it
/// builds the program again with other features.
pub fn this_program() -> Command {
    let mut command = Command::new(format!("/proc/{}/exe", process::id()));
    if let Some(name) = env::args_os().next() {
        command.arg0(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_cache_directory_is_ignored() {
        let base = |chosen: &str| {
            chosen_or_default(Some(chosen.into()), Some("/home/me".into()), ".cache")
        };
        assert_eq!(base("/var/cache").unwrap(), Path::new("/var/cache"));
        for ignored in ["", "cache", "./cache"] {
            assert_eq!(base(ignored).unwrap(), Path::new("/home/me/.cache"));
        }
        assert!(chosen_or_default(Some("cache".into()), None, ".cache").is_none());
    }

    #[test]
    fn an_installation_is_found_from_its_program_wherever_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("moved");
        for part in ["bin", "sbin", "share/zcnic/images"] {
            fs::create_dir_all(prefix.join(part)).unwrap();
        }
        let found = Installation::around(&prefix.join("bin/zcnic-lab")).unwrap();
        assert_eq!(found.images(), prefix.join("share/zcnic/images"));
        assert_eq!(Installation::around(&prefix.join("sbin/zcnic-lab")), None);

        fs::remove_dir(prefix.join("share/zcnic/images")).unwrap();
        assert_eq!(Installation::around(&prefix.join("bin/zcnic-lab")), None);
    }

    #[test]
    fn tests_run_in_the_workspace() {
        require().unwrap();
        assert!(images().join("driver/zcnic_abi.h").exists());
    }

    #[test]
    fn this_program_runs_after_its_file_is_gone() {
        const GONE: &str = "ZCNIC_TEST_FILE_IS_GONE";
        const SELF: &str = "paths::tests::this_program_runs_after_its_file_is_gone";
        let run = |command: &mut Command| {
            command.args(["--exact", SELF, "--nocapture"]);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        match env::var(GONE).as_deref() {
            // A copy removes itself and runs itself once more.
            Ok("no") => {
                fs::remove_file(env::current_exe().unwrap()).unwrap();
                print!("{}", run(this_program().env(GONE, "yes")));
            }
            Ok(_) => println!("still running"),
            Err(_) => {
                let directory = tempfile::tempdir().unwrap();
                let copy = directory.path().join("copy");
                fs::copy(env::current_exe().unwrap(), &copy).unwrap();
                let output = run(Command::new(&copy).env(GONE, "no"));
                assert!(output.contains("still running"), "{output}");
                assert!(!copy.exists());
            }
        }
    }
}
