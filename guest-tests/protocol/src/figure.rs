//! Figures: the lines that `zcnic-guest compare` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Interleaved samples of two sides: a, b, and a again in every round.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Figure {
    /// Name of the comparison.
    pub name: String,
    /// Unit of the samples, such as `bytes/CPU s` or `requests/s`.
    pub unit: String,
    /// Samples of side a, one per round.
    pub a: Vec<f64>,
    /// Samples of side b.
    pub b: Vec<f64>,
    /// Second samples of side a: their difference from the first is the noise.
    pub again: Vec<f64>,
    /// Events counted in all samples, by name.
    pub counters: BTreeMap<String, u64>,
}
