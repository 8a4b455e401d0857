//! Test programs, the cases that each must report, and what a case needs of a kernel.

use zcnic_results::{
    program::file_name,
    report::{Case, Outcome},
};
use zcnic_testbed::provision::linux::kernel::Kernel;

/// One test program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Below the selftests' root.
    pub(crate) path: &'static str,
    pub(super) cases: &'static [Wanted],
}

/// A case that a program must report.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: &'static str,
    pub(super) needs: Needs,
}

/// What a case finds missing, and then skips.
#[derive(Debug)]
pub(super) enum Needs {
    Nothing,
    /// Options of the kernel's configuration.
    Options(&'static [&'static str]),
    /// The first release, major and minor number, that has what is tested.
    Since(u64, u64),
    /// A feature that our driver does not have; without it a case fails as expected.
    Offload(&'static str),
}

/// A kernel, as far as cases depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelFacts<'a> {
    /// As `uname -r` says.
    pub(crate) release: &'a str,
    /// The text of its `.config`; what is not known is taken to be there.
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
    /// Is an option built in?
    pub(crate) fn has(self, option: &str) -> bool {
        self.config.is_none_or(|config| {
            let line = format!("CONFIG_{option}=y");
            config.lines().any(|other| other == line)
        })
    }

    /// Is it this release or a later one?
    fn is_since(self, major: u64, minor: u64) -> bool {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        let own: (Option<u64>, Option<u64>) = (number(), number());
        own >= (Some(major), Some(minor))
    }
}

impl Needs {
    /// What `kernel` lacks; None if nothing.
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

/// A case to be seen in a run on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequiredCase {
    /// `file.py:case`, as in a report.
    pub(crate) name: String,
    /// What the kernel, or the driver, lacks for it; then it may end as `otherwise` says.
    pub(crate) lacking: Option<String>,
    /// How it ends if something lacks.
    pub(crate) otherwise: Outcome,
}

impl RequiredCase {
    /// That it may skip, and why.
    pub(crate) fn skip_reason(&self) -> Option<String> {
        let lacking = self.lacking.as_deref()?;
        Some(format!(
            "may be {}: {} (for want of {lacking})",
            self.otherwise.word(),
            self.name
        ))
    }

    /// Is it all right that it ended so?
    pub(crate) fn allows(&self, outcome: Outcome) -> bool {
        outcome == Outcome::Pass || (outcome == self.otherwise && self.lacking.is_some())
    }
}

impl Program {
    /// Its file name, which its cases' names begin with.
    pub(crate) fn file(&self) -> &'static str {
        file_name(self.path)
    }

    /// The cases to be seen of it on `kernel`.
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

    /// The cases to be seen that are not in `cases`, as failures.
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

/// Large buffers of devmem: a page size given with the binding, which came with 7.3.
pub(super) const fn large_niov(name: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Since(7, 3),
    }
}

/// Allocations that fail on demand.
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
