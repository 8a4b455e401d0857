//! Suites of the kernel's selftests: sets of programs whose cases are all known, with what each
//! case needs of a kernel. A case that a program does not report counts as failed, as does a
//! reported failure.

pub(crate) mod case;
pub(crate) mod expect;
mod gro;
mod memory_providers;
pub(crate) mod runner;
pub(crate) mod selection;
pub(crate) mod shell;
mod xdp;

use clap::ValueEnum;
use zcnic_results::program::ProgramRun;

use self::{
    case::{KernelFacts, Program, RequiredCase},
    selection::Job,
};

/// A set of selftests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Memory providers and their configuration, on the port itself and on queues that are leased
    /// to a netkit device
    #[value(name = "memory-providers", alias = "1")]
    MemoryProviders,
    /// Coalescing of received segments (GRO), by the device and by the kernel
    #[value(name = "gro")]
    Gro,
    /// Native XDP and AF_XDP
    #[value(name = "xdp")]
    Xdp,
}

impl Suite {
    /// Returns its programs, in the order in which they run.
    pub(crate) fn programs(self) -> &'static [Program] {
        match self {
            Self::MemoryProviders => &memory_providers::PROGRAMS,
            Self::Gro => &gro::PROGRAMS,
            Self::Xdp => &xdp::PROGRAMS,
        }
    }

    /// Returns a job for each of its programs.
    pub(crate) fn jobs(self) -> Vec<Job> {
        let programs = self.programs().iter();
        programs.map(|program| Job::whole(program.path)).collect()
    }

    /// Returns the cases that it must report on `kernel`.
    pub(crate) fn required(self, kernel: KernelFacts) -> Vec<RequiredCase> {
        let programs = self.programs().iter();
        programs
            .flat_map(|program| program.required(kernel))
            .collect()
    }

    /// Adds the required cases that the runs of its programs do not have, as failures.
    pub(crate) fn complete(self, kernel: KernelFacts, runs: &mut [ProgramRun]) {
        for run in runs {
            let program = self.programs().iter().find(|known| known.path == run.name);
            let missing = program.map(|program| program.missing(kernel, &run.cases));
            run.cases.extend(missing.unwrap_or_default());
        }
    }

    /// Returns its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MemoryProviders => "memory-providers",
            Self::Gro => "gro",
            Self::Xdp => "xdp",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{memory_providers::PROGRAMS, *};
    use zcnic_results::report::{Case, Outcome};

    const STOCK: KernelFacts = KernelFacts {
        release: "7.3.4+deb13-amd64",
        config: Some("CONFIG_NET_DEVMEM=y\n# CONFIG_FAULT_INJECTION is not set\n"),
    };

    fn may_skip(kernel: KernelFacts) -> Vec<String> {
        let required = PROGRAMS.iter().flat_map(|program| program.required(kernel));
        required
            .filter(|required| required.lacking.is_some())
            .map(|required| required.name)
            .collect()
    }

    #[test]
    fn memory_providers_have_91_cases_of_different_names() {
        let required: Vec<_> = PROGRAMS
            .iter()
            .flat_map(|program| program.required(STOCK))
            .collect();
        let names: HashSet<_> = required.iter().map(|required| &required.name).collect();
        assert_eq!((required.len(), names.len()), (91, 91));
    }

    #[test]
    fn gro_has_no_skip_reason_but_for_what_the_driver_does_not_offer() {
        let required = Suite::Gro.required(STOCK);
        let names: HashSet<_> = required.iter().map(|required| &required.name).collect();
        assert_eq!((required.len(), names.len()), (323, 323));
        for required in required {
            let lro = required.name.contains("lro");
            assert_eq!(required.lacking.is_some(), lro, "{}", required.name);
            assert_eq!(required.allows(Outcome::Xfail), lro, "{}", required.name);
            assert!(!required.allows(Outcome::Skip) && !required.allows(Outcome::Fail));
        }
    }

    #[test]
    fn xdp_has_no_skip_reason() {
        let required = Suite::Xdp.required(STOCK);
        let names: HashSet<_> = required.iter().map(|required| &required.name).collect();
        assert_eq!((required.len(), names.len()), (31, 31));
        assert!(required.iter().all(|required| required.lacking.is_none()));
    }

    #[test]
    fn what_may_skip_depends_on_the_kernel() {
        assert_eq!(may_skip(STOCK), ["pp_alloc_fail.py:test_pp_alloc"]);
        let older = KernelFacts {
            release: "7.2.12+deb13-amd64",
            ..STOCK
        };
        assert_eq!(
            may_skip(older),
            [
                "devmem.py:check_rx_large_niov",
                "pp_alloc_fail.py:test_pp_alloc",
                "nk_devmem.py:check_nk_rx_large_niov",
            ]
        );
        let debug = KernelFacts {
            release: "7.10.0-rc1",
            config: Some(
                "CONFIG_FAULT_INJECTION=y\nCONFIG_FAULT_INJECTION_DEBUG_FS=y\n\
                 CONFIG_FUNCTION_ERROR_INJECTION=y\nCONFIG_FAIL_FUNCTION=y\n",
            ),
        };
        assert_eq!(may_skip(debug), [""; 0]);
        // A kernel of unknown configuration must pass all cases.
        let unknown = KernelFacts {
            config: None,
            ..STOCK
        };
        assert_eq!(may_skip(unknown), [""; 0]);
    }

    #[test]
    fn a_skip_is_allowed_only_where_something_lacks() {
        let required = |lacking: Option<&str>| RequiredCase {
            name: "a.py:b".to_owned(),
            lacking: lacking.map(str::to_owned),
            otherwise: Outcome::Skip,
        };
        assert!(required(None).allows(Outcome::Pass));
        assert!(!required(None).allows(Outcome::Skip));
        assert!(required(Some("Linux 7.3")).allows(Outcome::Skip));
        assert!(required(Some("Linux 7.3")).allows(Outcome::Pass));
        for bad in [Outcome::Fail, Outcome::Xfail] {
            assert!(!required(Some("Linux 7.3")).allows(bad));
        }
    }

    #[test]
    fn a_case_that_was_not_reported_has_failed() {
        let seen = [Case {
            outcome: Outcome::Pass,
            ..Case::failed("queues.py:get_queues", String::new())
        }];
        let queues = PROGRAMS
            .iter()
            .find(|program| program.file() == "queues.py")
            .unwrap();
        let missing = queues.missing(STOCK, &seen);
        let names: Vec<_> = missing.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "queues.py:addremove_queues",
                "queues.py:check_down",
                "queues.py:check_xsk"
            ]
        );
        assert!(missing.iter().all(|case| case.outcome == Outcome::Fail));
    }
}
