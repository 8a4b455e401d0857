//! Test programs, the cases that each must report, and what a case needs of a kernel.

use zcnic_results::{
    program::file_name,
    report::{Case, Outcome},
};
use zcnic_testbed::provision::linux::kernel::Kernel;

/// One test program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its path below the selftests' root.
    pub(crate) path: &'static str,
    pub(super) cases: &'static [Wanted],
}

/// A case that a program must report.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: &'static str,
    pub(super) needs: Needs,
}

/// What a case needs, and skips without.
#[derive(Debug)]
pub(super) enum Needs {
    Nothing,
    /// Options of the kernel's configuration.
    Options(&'static [&'static str]),
    /// The first release, major and minor number, with the tested feature.
    Since(u64, u64),
    /// A feature that our driver does not have; the case then fails as expected.
    Offload(&'static str),
}

/// The properties of a kernel that cases depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelFacts<'a> {
    /// The release, as `uname -r` prints it.
    pub(crate) release: &'a str,
    /// The text of its `.config`. If it is unknown, all options count as set, so that no case may
    /// skip.
    pub(crate) config: Option<&'a str>,
}

impl<'a> From<&'a Kernel> for KernelFacts<'a> {
    fn from(kernel: &'a Kernel) -> Self {
        Self {
            release: &kernel.release,
            config: kernel.config.as_deref(),
        }
    }
}

impl KernelFacts<'_> {
    /// Returns whether an option is built in.
    pub(crate) fn has(self, option: &str) -> bool {
        self.config.is_none_or(|config| {
            let line = format!("CONFIG_{option}=y");
            config.lines().any(|other| other == line)
        })
    }

    /// Returns whether it is this release or a later one.
    fn is_since(self, major: u64, minor: u64) -> bool {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        let own: (Option<u64>, Option<u64>) = (number(), number());
        own >= (Some(major), Some(minor))
    }
}

impl Needs {
    /// Returns what `kernel` lacks; None if nothing.
    fn lacking(&self, kernel: KernelFacts) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Options(options) => {
                let missing: Vec<_> = options
                    .iter()
                    .filter(|option| !kernel.has(option))
                    .map(|option| format!("CONFIG_{option}"))
                    .collect();
                (!missing.is_empty()).then(|| missing.join(", "))
            }
            Self::Since(major, minor) => {
                (!kernel.is_since(*major, *minor)).then(|| format!("Linux {major}.{minor}"))
            }
            Self::Offload(name) => Some(format!("{name} in the driver")),
        }
    }
}

/// A case that a run on one kernel must report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequiredCase {
    /// `file.py:case`, as in a report.
    pub(crate) name: String,
    /// What the kernel or the driver lacks for it; then it may end with `otherwise`.
    pub(crate) lacking: Option<String>,
    /// Its outcome if something is missing.
    pub(crate) otherwise: Outcome,
}

impl RequiredCase {
    /// Returns a line with the outcome that it may have instead of a pass, and why.
    pub(crate) fn skip_reason(&self) -> Option<String> {
        let lacking = self.lacking.as_deref()?;
        Some(format!(
            "may be {}: {} (lacks {lacking})",
            self.otherwise.word(),
            self.name
        ))
    }

    /// Returns whether it may end so.
    pub(crate) fn allows(&self, outcome: Outcome) -> bool {
        outcome == Outcome::Pass || (outcome == self.otherwise && self.lacking.is_some())
    }
}

impl Program {
    /// Returns its file name, with which its cases' names begin.
    pub(crate) fn file(&self) -> &'static str {
        file_name(self.path)
    }

    /// Returns the cases that it must report on `kernel`.
    pub(crate) fn required(&self, kernel: KernelFacts) -> Vec<RequiredCase> {
        let required = |wanted: &Wanted| RequiredCase {
            name: format!("{}:{}", self.file(), wanted.name),
            lacking: wanted.needs.lacking(kernel),
            otherwise: match wanted.needs {
                Needs::Offload(_) => Outcome::Xfail,
                _ => Outcome::Skip,
            },
        };
        self.cases.iter().map(required).collect()
    }

    /// Returns the required cases that are not in `cases`, as failures.
    pub(crate) fn missing(&self, kernel: KernelFacts, cases: &[Case]) -> Vec<Case> {
        let required = self.required(kernel).into_iter();
        required
            .filter(|required| !cases.iter().any(|case| case.name == required.name))
            .map(|required| Case::failed(&required.name, "did not run".to_owned()))
            .collect()
    }
}

/// A case that every kernel with memory providers can run.
pub(super) const fn case(name: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Nothing,
    }
}

/// A case of a feature that our driver does not have.
pub(super) const fn offload(name: &'static str, feature: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Offload(feature),
    }
}

/// A case of large devmem buffers: a page size given with the binding, since 7.3.
pub(super) const fn large_niov(name: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Since(7, 3),
    }
}

/// A case that makes allocations fail on demand.
pub(super) const fn failing_allocations(name: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Options(&[
            "FAULT_INJECTION",
            "FAULT_INJECTION_DEBUG_FS",
            "FUNCTION_ERROR_INJECTION",
            "FAIL_FUNCTION",
        ]),
    }
}
