//! Results of the kernel's selftests (`zcnic-guest kselftest`).

use serde::{Deserialize, Serialize};

/// The object that `zcnic-guest kselftest` prints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SelftestResults {
    /// One per test program, in the order in which they ran.
    pub tests: Vec<TestResult>,
}

/// The results of one test program.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct TestResult {
    /// Path below the directory of selftests.
    pub test: String,
    /// How long it ran.
    pub seconds: f64,
    /// Its cases; one more, named after the file, if the program as a whole failed or was skipped.
    pub cases: Vec<CaseResult>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct CaseResult {
    /// `iou-zcrx.py:test_zcrx.single`, or the file alone for the program as a whole.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds since the case before; 0 where the times of cases are unknown.
    pub seconds: f64,
    /// Why it failed or was skipped; empty otherwise.
    pub detail: String,
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As expected.
    Pass,
    /// Not as expected; an unexpected pass (XPASS) too.
    Fail,
    /// It did not run.
    Skip,
    /// It failed, and that was expected.
    Xfail,
}
