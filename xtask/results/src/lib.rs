//! Results of tests: cases, runs of test programs, and the formats in which other tools read them.
//!
//! ```
//! use zcnic_results::{
//!     ktap,
//!     program::ProgramRun,
//!     report::{Case, Outcome},
//! };
//!
//! let passed = Case {
//!     outcome: Outcome::Pass,
//!     seconds: 1.5,
//!     ..Case::failed("hds.py:get_hds", String::new())
//! };
//! let run = ProgramRun {
//!     name: "drivers/net/hds.py".to_owned(),
//!     round: None,
//!     seconds: 2.0,
//!     cases: vec![passed],
//! };
//! let text = ktap::write(&[run], &["kernel: 7.3.4".to_owned()]);
//! assert!(text.contains("ok 1 get_hds\n"));
//! ```

#![forbid(unsafe_code)]

pub mod formats;
pub mod html;
pub mod junit;
pub mod ktap;
pub mod netdev_ci;
pub mod program;
pub mod report;
