//! The parts of CI, in the order in which they run, and when each does.

use crate::cases::LONG;

/// One part of CI: it succeeds if all of its commands do.
pub(crate) struct Part {
    /// As it is named on the command line and in reports.
    pub(crate) name: &'static str,
    /// The statement that it proves, for the table in docs/ci.md.
    pub(crate) about: &'static str,
    pub(crate) tier: Tier,
    pub(crate) commands: &'static [Run],
}

/// When a part runs without being named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// For every submission, and with `--all`.
    Always,
    /// For every submission; another part of `--all` runs the same and more.
    Submission,
    /// With `--all` only.
    All,
    /// Never: it needs a host that not every network reaches.
    Named,
}

impl Tier {
    /// Whether a run of this extent includes the part.
    pub(crate) fn runs(self, all: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Submission => !all,
            Self::All => all,
            Self::Named => false,
        }
    }

    /// Whether successes are worth a note: a submission's need none.
    pub(crate) fn is_recorded(self) -> bool {
        matches!(self, Self::All | Self::Named)
    }

    /// For the table in docs/ci.md.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Always | Self::Submission => "every submission",
            Self::All => "`--all`",
            Self::Named => "when named",
        }
    }
}

/// A command of a part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    /// cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// cargo with these arguments and `--kernel`, which is this profile of `cargo xtask kernel`.
    OnKernel(&'static str, &'static [&'static str]),
    /// `cargo test` with these arguments, its programs under valgrind.
    Valgrind(&'static [&'static str]),
    /// One of the programs in `.ci/tools.txt`.
    Tool(Tool, &'static [&'static str]),
    /// Validates every YAML file of a directory against a schema that check-jsonschema carries.
    Schema(&'static str, &'static str),
}

/// The programs in `.ci/tools.txt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    CargoDeny,
    CheckJsonschema,
    Typos,
    Zizmor,
}

/// The last one is the README's test command, whose closing line ends CI's output as well.
pub(crate) const PARTS: [Part; 25] = [
    Part {
        name: "format",
        about: "Rust sources are formatted",
        tier: Tier::Always,
        commands: &[Run::Cargo(&["fmt", "--all", "--check"])],
    },
    Part {
        name: "spelling",
        about: "no word is misspelt, but for those in `.typos.toml`",
        tier: Tier::Always,
        commands: &[Run::Tool(Tool::Typos, &[])],
    },
    Part {
        name: "dependencies",
        about: "licences, sources and bans of `deny.toml`",
        tier: Tier::Always,
        commands: &[Run::Tool(
            Tool::CargoDeny,
            &[
                "--log-level=error",
                "--workspace",
                "check",
                "bans",
                "licenses",
                "sources",
            ],
        )],
    },
    Part {
        name: "workflows",
        about: "hosted workflows and issue forms are valid, and workflows pass zizmor's audits",
        tier: Tier::Always,
        commands: &[
            Run::Schema("vendor.github-workflows", ".github/workflows"),
            Run::Schema("vendor.github-workflows", "docs/ci-recipe.yml"),
            Run::Schema("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE"),
            Run::Schema(
                "vendor.github-issue-config",
                ".github/ISSUE_TEMPLATE/config.yml",
            ),
            Run::Tool(
                Tool::Zizmor,
                &["--quiet", "--offline", ".github", "docs/ci-recipe.yml"],
            ),
        ],
    },
    Part {
        name: "lints",
        about: "clippy has no warning, and `Cargo.lock` is up to date",
        tier: Tier::Always,
        commands: &[Run::Cargo(&[
            "clippy",
            "--locked",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-Dwarnings",
        ])],
    },
    Part {
        name: "docs",
        about: "rustdoc has no warning",
        tier: Tier::Always,
        commands: &[Run::Cargo(&[
            "--config",
            "build.rustdocflags=['-Dwarnings']",
            "doc",
            "--locked",
            "--quiet",
            "--workspace",
            "--no-deps",
        ])],
    },
    Part {
        name: "driver",
        about: "the driver compiles against the headers of every kernel series, warnings being errors",
        tier: Tier::Always,
        commands: &[Run::Cargo(&["xtask", "driver"])],
    },
    Part {
        name: "demo",
        about: "`cargo xtask demo` as in the README",
        tier: Tier::Always,
        commands: &[Run::Cargo(&["xtask", "demo"])],
    },
    Part {
        name: "memory",
        about: "valgrind finds no invalid access in the rings' tests and over the corpora of fuzz targets",
        tier: Tier::All,
        commands: &[
            Run::Valgrind(&[
                "--package=zcnic-backend",
                "--lib",
                "ring::",
                "--",
                // Half a million rounds over the same code.
                "--skip=ring::tests::indices",
            ]),
            Run::Valgrind(&[
                "--package=zcnic-fuzz",
                "--test=corpus",
                "--",
                // A whole connection each has threads by the dozen.
                "--skip=frontend",
            ]),
        ],
    },
    Part {
        name: "benchmarks",
        about: "every benchmark runs; its numbers are not judged",
        tier: Tier::All,
        commands: &[Run::Cargo(&["xtask", "bench", "--quick"])],
    },
    Part {
        name: "selftests",
        about: "the kernel's selftests of memory providers, on Debian's newest kernel",
        tier: Tier::Submission,
        commands: &[Run::Cargo(&[
            "xtask",
            "kselftest",
            "--suite",
            "memory-providers",
        ])],
    },
    Part {
        name: "matrix",
        about: "the same selftests on Debian's kernel of every series",
        tier: Tier::All,
        commands: &[Run::Cargo(&["xtask", "matrix"])],
    },
    Part {
        name: "gro",
        about: "the kernel's selftests of GRO",
        tier: Tier::All,
        commands: &[Run::Cargo(&["xtask", "kselftest", "--suite", "gro"])],
    },
    Part {
        name: "xdp",
        about: "the kernel's selftests of XDP and AF_XDP",
        tier: Tier::All,
        commands: &[Run::Cargo(&["xtask", "kselftest", "--suite", "xdp"])],
    },
    Part {
        name: "debug",
        about: "the selftests of memory providers on a kernel with lockdep, DMA-API debugging and fault injection",
        tier: Tier::All,
        commands: &[Run::OnKernel(
            "debug",
            &["xtask", "kselftest", "--suite", "memory-providers"],
        )],
    },
    Part {
        name: "kasan",
        about: "the selftests of zero-copy receive, devmem TCP and ring changes on a kernel with KASAN",
        tier: Tier::All,
        commands: &[Run::OnKernel(
            "kasan",
            &[
                "xtask",
                "kselftest",
                "iou-zcrx.py",
                "devmem.py",
                "ring_reconfig.py",
            ],
        )],
    },
    Part {
        name: "features",
        about: "the kernel's receive-path features, end to end",
        tier: Tier::All,
        commands: &[Run::Cargo(&[
            "xtask",
            "test",
            LONG[0],
            "--report",
            "docs/reports/test-features.json",
        ])],
    },
    Part {
        name: "detection",
        about: "bugs seeded into driver and programs are found, each by its finder",
        tier: Tier::All,
        commands: &[Run::Cargo(&[
            "xtask",
            "test",
            LONG[1],
            "--report",
            "docs/reports/detection.json",
        ])],
    },
    Part {
        name: "crash",
        about: "backend, frontends and clients that are killed or paused while they work leave nothing behind",
        tier: Tier::All,
        commands: &[Run::Cargo(&[
            "xtask",
            "crash",
            "--point",
            "frontend/",
            "--seeds",
            "3",
        ])],
    },
    Part {
        name: "soak",
        about: "random operations on a port for five minutes lose no byte, page or buffer",
        tier: Tier::All,
        commands: &[Run::Cargo(&[
            "xtask",
            "soak",
            "--minutes",
            "5",
            "--log",
            "/dev/null",
        ])],
    },
    Part {
        name: "package",
        about: "the Debian packages install in a clean root, dkms builds the driver there, and the archive works",
        tier: Tier::All,
        commands: &[Run::Cargo(&["xtask", "test", LONG[2]])],
    },
    Part {
        name: "documents",
        about: "the tutorial, followed word by word in a fresh clone",
        tier: Tier::All,
        commands: &[Run::Cargo(&["xtask", "test", LONG[3]])],
    },
    Part {
        name: "recipes",
        about: "virtme-ng and libvirt take the ports by the lines of the documents",
        tier: Tier::All,
        commands: &[Run::Cargo(&["xtask", "test", LONG[4]])],
    },
    Part {
        name: "advisories",
        about: "no dependency has an advisory in the RustSec database (needs github.com)",
        tier: Tier::Named,
        commands: &[Run::Tool(
            Tool::CargoDeny,
            &["--log-level=error", "--workspace", "check", "advisories"],
        )],
    },
    Part {
        name: "tests",
        about: "every other test: unit, property, doc, links, vhost-user, guest, faults, scenarios",
        tier: Tier::Always,
        commands: &[Run::Cargo(&["xtask", "test"])],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_in_some_tier_or_is_covered_by_another() {
        for part in &PARTS {
            let somewhere = part.tier.runs(true) || part.tier.runs(false);
            assert!(somewhere || part.tier == Tier::Named, "{}", part.name);
        }
    }

    #[test]
    fn the_readme_s_test_command_is_last_and_always_runs() {
        let last = &PARTS[PARTS.len() - 1];
        assert_eq!((last.name, last.tier), ("tests", Tier::Always));
    }
}
