//! Which of the kernel's selftests belong together, and what each case needs of a kernel: with this a
//! run knows what it must see. A case that nobody reports has failed as surely as one that says so.

mod gro;
mod xdp;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    linux::kernel::Kernel,
    report::{Case, Outcome},
    suite::{Suite, file_name},
};

/// A set of selftests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ring {
    /// Memory providers and what they are configured by, on the port itself and on queues that are
    /// leased to a netkit device
    #[value(name = "1")]
    One,
    /// Coalescing of received segments, by the device and by the kernel
    #[value(name = "gro")]
    Gro,
    /// Native XDP and AF_XDP
    #[value(name = "xdp")]
    Xdp,
}

/// One test program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Below the selftests' root.
    pub(crate) path: &'static str,
    cases: &'static [Wanted],
}

/// A case that a program must report.
#[derive(Debug)]
struct Wanted {
    name: &'static str,
    needs: Needs,
}

/// What a case finds missing, and then skips.
#[derive(Debug)]
enum Needs {
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
pub(crate) struct About<'a> {
    /// As `uname -r` says.
    pub(crate) release: &'a str,
    /// The text of its `.config`; what is not known is taken to be there.
    pub(crate) config: Option<&'a str>,
}

impl<'a> From<&'a Kernel> for About<'a> {
    fn from(kernel: &'a Kernel) -> Self {
        Self {
            release: &kernel.release,
            config: kernel.config.as_deref(),
        }
    }
}

impl About<'_> {
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
    fn lacking(&self, kernel: About) -> Option<String> {
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
pub(crate) struct Due {
    /// `file.py:case`, as in a report.
    pub(crate) name: String,
    /// What the kernel, or the driver, lacks for it; then it may end as `otherwise` says.
    pub(crate) lacking: Option<String>,
    /// How it ends if something lacks.
    pub(crate) otherwise: Outcome,
}

impl Due {
    /// That it may skip, and why.
    pub(crate) fn excuse(&self) -> Option<String> {
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
    pub(crate) fn due(&self, kernel: About) -> Vec<Due> {
        let due = |wanted: &Wanted| Due {
            name: format!("{}:{}", self.file(), wanted.name),
            lacking: wanted.needs.lacking(kernel),
            otherwise: match wanted.needs {
                Needs::Offload(_) => Outcome::Xfail,
                _ => Outcome::Skip,
            },
        };
        self.cases.iter().map(due).collect()
    }

    /// The cases to be seen that are not in `cases`, as failures.
    pub(crate) fn missing(&self, kernel: About, cases: &[Case]) -> Vec<Case> {
        let due = self.due(kernel).into_iter();
        due.filter(|due| !cases.iter().any(|case| case.name == due.name))
            .map(|due| Case::failed(&due.name, "did not run".to_owned()))
            .collect()
    }
}

impl Ring {
    /// Its programs, in the order in which they run.
    pub(crate) fn programs(self) -> &'static [Program] {
        match self {
            Self::One => &ONE,
            Self::Gro => &GRO,
            Self::Xdp => &xdp::XDP,
        }
    }

    /// The paths of its programs.
    pub(crate) fn paths(self) -> Vec<&'static str> {
        self.programs().iter().map(|program| program.path).collect()
    }

    /// The cases to be seen on `kernel`.
    pub(crate) fn due(self, kernel: About) -> Vec<Due> {
        let programs = self.programs().iter();
        programs.flat_map(|program| program.due(kernel)).collect()
    }

    /// Adds to the suites of a run the cases that were to be seen and were not, as failures.
    pub(crate) fn complete(self, kernel: About, suites: &mut [Suite]) -> Result<()> {
        for program in self.programs() {
            let suite = suites.iter_mut().find(|suite| suite.name == program.path);
            let suite = suite.context("a program of the ring was not run")?;
            let missing = program.missing(kernel, &suite.cases);
            suite.cases.extend(missing);
        }
        Ok(())
    }

    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Gro => "gro",
            Self::Xdp => "xdp",
        }
    }
}

/// The tests that `names` mean.
pub(crate) fn select<'a>(all: &'a [String], names: &[String]) -> Result<Vec<&'a str>> {
    if names.is_empty() {
        let python = all.iter().filter(|test| test.ends_with(".py"));
        return Ok(python.map(String::as_str).collect());
    }
    let find = |name: &String| {
        all.iter()
            .find(|test| *test == name || file_name(test) == name)
            .map(String::as_str)
            .with_context(|| {
                format!("no selftest is called {name}; `cargo xtask kselftest --list` names them")
            })
    };
    names.iter().map(find).collect()
}

/// A case that every kernel with memory providers can run.
const fn case(name: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Nothing,
    }
}

/// A case of a feature that our driver does not have.
const fn offload(name: &'static str, feature: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Offload(feature),
    }
}

/// Large buffers of devmem: a page size given with the binding, which came with 7.3.
const fn large_niov(name: &'static str) -> Wanted {
    Wanted {
        name,
        needs: Needs::Since(7, 3),
    }
}

/// Allocations that fail on demand.
const fn failing_allocations(name: &'static str) -> Wanted {
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

const GRO: [Program; 2] = [
    Program {
        path: "drivers/net/hw/gro_hw.py",
        cases: &[
            case("test_gro_stats_single"),
            case("test_gro_stats_full"),
            case("test_gro_order.4"),
            case("test_gro_order.32"),
            case("test_gro_order.512"),
        ],
    },
    Program {
        path: "drivers/net/gro.py",
        cases: gro::CASES,
    },
];

const ONE: [Program; 13] = [
    Program {
        path: "drivers/net/hw/iou-zcrx.py",
        cases: &[
            case("test_zcrx.single"),
            case("test_zcrx.rss"),
            case("test_zcrx_oneshot.single"),
            case("test_zcrx_oneshot.rss"),
            case("test_zcrx_large_chunks"),
        ],
    },
    Program {
        path: "drivers/net/hw/devmem.py",
        cases: &[
            case("check_rx"),
            case("check_tx"),
            case("check_tx_chunks"),
            case("check_rx_hds"),
            large_niov("check_rx_large_niov"),
        ],
    },
    Program {
        path: "drivers/net/hds.py",
        cases: &[
            case("get_hds"),
            case("get_hds_thresh"),
            case("set_hds_disable"),
            case("set_hds_enable"),
            case("set_hds_thresh_random"),
            case("set_hds_thresh_zero"),
            case("set_hds_thresh_max"),
            case("set_hds_thresh_gt"),
            case("set_xdp"),
            case("enabled_set_xdp"),
            case("ioctl"),
            case("ioctl_set_xdp"),
            case("ioctl_enabled_set_xdp"),
        ],
    },
    Program {
        path: "drivers/net/queues.py",
        cases: &[
            case("get_queues"),
            case("addremove_queues"),
            case("check_down"),
            case("check_xsk"),
        ],
    },
    Program {
        path: "drivers/net/ring_reconfig.py",
        cases: &[
            case("channels"),
            case("ringparam"),
            case("reconfig_tx_stall"),
        ],
    },
    Program {
        path: "drivers/net/hw/ntuple.py",
        cases: &[
            case("queue.tcp4.src_ip"),
            case("queue.tcp4.dst_ip"),
            case("queue.tcp4.src_port"),
            case("queue.tcp4.dst_port"),
            case("queue.tcp4.src_ip.dst_ip"),
            case("queue.tcp4.src_ip.dst_ip.src_port.dst_port"),
            case("queue.udp4.src_ip"),
            case("queue.udp4.dst_ip"),
            case("queue.udp4.src_port"),
            case("queue.udp4.dst_port"),
            case("queue.udp4.src_ip.dst_ip"),
            case("queue.udp4.src_ip.dst_ip.src_port.dst_port"),
            case("queue.tcp6.src_ip"),
            case("queue.tcp6.dst_ip"),
            case("queue.tcp6.src_port"),
            case("queue.tcp6.dst_port"),
            case("queue.tcp6.src_ip.dst_ip"),
            case("queue.tcp6.src_ip.dst_ip.src_port.dst_port"),
            case("queue.udp6.src_ip"),
            case("queue.udp6.dst_ip"),
            case("queue.udp6.src_port"),
            case("queue.udp6.dst_port"),
            case("queue.udp6.src_ip.dst_ip"),
            case("queue.udp6.src_ip.dst_ip.src_port.dst_port"),
        ],
    },
    Program {
        path: "drivers/net/hw/rss_ctx.py",
        cases: &[
            case("test_rss_key_indir"),
            case("test_rss_queue_reconfigure"),
            case("test_rss_resize"),
            case("test_hitless_key_update"),
            case("test_rss_context"),
            case("test_rss_context4"),
            case("test_rss_context32"),
            case("test_rss_context_dump"),
            case("test_rss_context_queue_reconfigure"),
            case("test_rss_context_overlap"),
            case("test_rss_context_overlap2"),
            case("test_rss_context_out_of_order"),
            case("test_rss_context4_create_with_cfg"),
            case("test_flow_add_context_missing"),
            case("test_delete_rss_context_busy"),
            case("test_rss_ntuple_addition"),
            case("test_rss_default_context_rule"),
            case("test_rss_context_flow_hash"),
            case("test_rss_context_persist_create_and_ifdown"),
            case("test_rss_context_persist_ifdown_and_create"),
        ],
    },
    Program {
        path: "drivers/net/hw/pp_alloc_fail.py",
        cases: &[failing_allocations("test_pp_alloc")],
    },
    Program {
        path: "drivers/net/napi_id.py",
        cases: &[case("test_napi_id")],
    },
    Program {
        path: "drivers/net/hw/nk_netns.py",
        cases: &[case("test_ping")],
    },
    Program {
        path: "drivers/net/hw/nk_qlease.py",
        cases: &[
            case("test_iou_zcrx"),
            case("test_iou_zcrx_large_buf"),
            case("test_attrs"),
            case("test_attach_xdp_with_mp"),
            case("test_destroy"),
        ],
    },
    Program {
        path: "drivers/net/hw/nk_devmem.py",
        cases: &[
            case("check_nk_rx"),
            case("check_nk_tx"),
            case("check_nk_tx_chunks"),
            case("check_nk_rx_hds"),
            large_niov("check_nk_rx_large_niov"),
        ],
    },
    Program {
        path: "drivers/net/hw/userns_devmem.py",
        cases: &[
            case("check_userns_rx"),
            case("check_userns_tx"),
            case("check_userns_tx_chunks"),
            case("check_userns_rx_hds"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const STOCK: About = About {
        release: "7.3.4+deb13-amd64",
        config: Some("CONFIG_NET_DEVMEM=y\n# CONFIG_FAULT_INJECTION is not set\n"),
    };

    fn may_skip(kernel: About) -> Vec<String> {
        let due = ONE.iter().flat_map(|program| program.due(kernel));
        due.filter(|due| due.lacking.is_some())
            .map(|due| due.name)
            .collect()
    }

    #[test]
    fn ring_1_has_91_cases_of_different_names() {
        let due: Vec<_> = ONE.iter().flat_map(|program| program.due(STOCK)).collect();
        let names: HashSet<_> = due.iter().map(|due| &due.name).collect();
        assert_eq!((due.len(), names.len()), (91, 91));
    }

    #[test]
    fn gro_has_no_excuse_but_for_what_the_driver_does_not_offer() {
        let due = Ring::Gro.due(STOCK);
        let names: HashSet<_> = due.iter().map(|due| &due.name).collect();
        assert_eq!((due.len(), names.len()), (323, 323));
        for due in due {
            let lro = due.name.contains("lro");
            assert_eq!(due.lacking.is_some(), lro, "{}", due.name);
            assert_eq!(due.allows(Outcome::Xfail), lro, "{}", due.name);
            assert!(!due.allows(Outcome::Skip) && !due.allows(Outcome::Fail));
        }
    }

    #[test]
    fn xdp_has_no_excuse() {
        let due = Ring::Xdp.due(STOCK);
        let names: HashSet<_> = due.iter().map(|due| &due.name).collect();
        assert_eq!((due.len(), names.len()), (31, 31));
        assert!(due.iter().all(|due| due.lacking.is_none()));
    }

    #[test]
    fn what_may_skip_depends_on_the_kernel() {
        assert_eq!(may_skip(STOCK), ["pp_alloc_fail.py:test_pp_alloc"]);
        let older = About {
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
        let debug = About {
            release: "7.10.0-rc1",
            config: Some(
                "CONFIG_FAULT_INJECTION=y\nCONFIG_FAULT_INJECTION_DEBUG_FS=y\n\
                 CONFIG_FUNCTION_ERROR_INJECTION=y\nCONFIG_FAIL_FUNCTION=y\n",
            ),
        };
        assert_eq!(may_skip(debug), [""; 0]);
        // Whose configuration nobody knows must do it all.
        let unknown = About {
            config: None,
            ..STOCK
        };
        assert_eq!(may_skip(unknown), [""; 0]);
    }

    #[test]
    fn a_skip_is_allowed_only_where_something_lacks() {
        let due = |lacking: Option<&str>| Due {
            name: "a.py:b".to_owned(),
            lacking: lacking.map(str::to_owned),
            otherwise: Outcome::Skip,
        };
        assert!(due(None).allows(Outcome::Pass));
        assert!(!due(None).allows(Outcome::Skip));
        assert!(due(Some("Linux 7.3")).allows(Outcome::Skip));
        assert!(due(Some("Linux 7.3")).allows(Outcome::Pass));
        for bad in [Outcome::Fail, Outcome::Xfail] {
            assert!(!due(Some("Linux 7.3")).allows(bad));
        }
    }

    #[test]
    fn a_case_that_nobody_reported_has_failed() {
        let seen = [Case {
            outcome: Outcome::Pass,
            ..Case::failed("queues.py:get_queues", String::new())
        }];
        let queues = ONE
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

    #[test]
    fn tests_are_selected_by_file_name_and_python_ones_by_default() {
        let all: Vec<_> = ["drivers/net/queues.py", "drivers/net/hw/ethtool.sh"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(select(&all, &[]).unwrap(), ["drivers/net/queues.py"]);
        let named = select(&all, &["ethtool.sh".to_owned()]).unwrap();
        assert_eq!(named, ["drivers/net/hw/ethtool.sh"]);
        assert!(select(&all, &["queue".to_owned()]).is_err());
    }
}
