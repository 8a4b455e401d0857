//! A measurement: interleaved samples of two sides.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use zcnic_guest_protocol::figure as guest;

/// Counts by name; None for what was not counted.
pub(crate) type Counters = BTreeMap<String, Option<u64>>;

/// Samples of side a, of side b, and of side a again. A figure without b has no ratio.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) a: Vec<f64>,
    #[serde(default)]
    pub(crate) b: Vec<f64>,
    #[serde(default)]
    pub(crate) again: Vec<f64>,
    /// The device's counters meanwhile.
    #[serde(default)]
    pub(crate) counters: Option<Counters>,
}

/// Takes a figure that `zcnic-guest compare` printed.
impl From<guest::Figure> for Figure {
    fn from(figure: guest::Figure) -> Self {
        Self {
            name: figure.name,
            unit: figure.unit,
            a: figure.a,
            b: figure.b,
            again: figure.again,
            counters: Some(
                figure
                    .counters
                    .into_iter()
                    .map(|(name, count)| (name, Some(count)))
                    .collect(),
            ),
        }
    }
}

impl Figure {
    /// Returns one of the counters, if it was counted.
    pub(crate) fn counter(&self, name: &str) -> Option<u64> {
        self.counters.as_ref()?.get(name).copied().flatten()
    }

    /// Returns the median of all samples of a.
    pub(crate) fn median(&self) -> f64 {
        median(&[&self.a[..], &self.again].concat())
    }

    /// Returns the median of all samples of a over that of b.
    pub(crate) fn ratio(&self) -> f64 {
        self.median() / median(&self.b)
    }

    /// Returns the spread: least and greatest ratio of a's second sample to its first in a round.
    pub(crate) fn spread(&self) -> [f64; 2] {
        let of_rounds = self.a.iter().zip(&self.again).map(|(a, again)| again / a);
        of_rounds.fold(
            [f64::INFINITY, f64::NEG_INFINITY],
            |[least, greatest], ratio| [least.min(ratio), greatest.max(ratio)],
        )
    }

    /// Returns how many nanoseconds one event of a takes longer than one of b, if the samples are
    /// rates.
    pub(crate) fn cost(&self) -> Option<f64> {
        let rates = self.unit.ends_with("/s") && !self.unit.starts_with("byte");
        (rates && !self.b.is_empty()).then(|| 1e9 / self.median() - 1e9 / median(&self.b))
    }

    /// Fails if it has no samples, or one that is not positive.
    pub(crate) fn check(&self) -> Result<()> {
        let all = [&self.a, &self.b, &self.again];
        let positive = all
            .iter()
            .all(|samples| samples.iter().all(|sample| *sample > 0.0));
        ensure!(
            !self.a.is_empty() && positive,
            "{} was not measured: {self:?}",
            self.name
        );
        Ok(())
    }

    /// Returns a line for people.
    pub(crate) fn line(&self) -> String {
        let value = match self.median() {
            value if self.unit == "s" => format!("{:8.2} us", value * 1e6),
            value if self.unit == "bytes/s" => format!("{:8.3} GB/s", value / 1e9),
            value => format!("{:8.3} M{}", value / 1e6, self.unit),
        };
        let ratio = if self.b.is_empty() {
            String::new()
        } else {
            let [least, greatest] = self.spread();
            format!(
                "ratio {:.3}   a/a {least:.3} to {greatest:.3}",
                self.ratio()
            )
        };
        let cost = self
            .cost()
            .map_or(String::new(), |cost| format!("   {cost:+.1} ns each"));
        let line = format!("{:28} {value:>20}   {ratio}{cost}", self.name);
        line.trim_end().to_owned()
    }

    /// Returns the JSON for the report, from which it can be read again.
    pub(crate) fn to_json(&self) -> Value {
        let compared = !self.b.is_empty();
        json!({
            "name": self.name,
            "unit": self.unit,
            "median_a": self.median(),
            "median_b": compared.then(|| median(&self.b)),
            "ratio": compared.then(|| self.ratio()),
            "spread": (!self.again.is_empty()).then(|| self.spread()),
            "cost_ns": self.cost(),
            "counters": self.counters,
            "a": self.a,
            "b": self.b,
            "again": self.again,
        })
    }
}

/// Returns the median of `samples`; 0 without samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_stand_beside_what_a_differs_by() {
        let figure = Figure {
            name: "x".to_owned(),
            unit: "frames/s".to_owned(),
            a: vec![2e6, 4e6, 90e6],
            b: vec![8e6, 8e6, 1e6],
            again: vec![1e6, 4e6, 99e6],
            ..Figure::default()
        };
        assert_eq!(figure.ratio(), 0.5);
        assert_eq!(figure.spread(), [0.5, 1.1]);
        assert_eq!(figure.cost(), Some(125.0));
        assert!(figure.check().is_ok());
        assert_eq!(
            figure.line(),
            "x                                 4.000 Mframes/s   ratio 0.500   a/a 0.500 to 1.100   +125.0 ns each"
        );
        let read: Figure = serde_json::from_value(figure.to_json()).unwrap();
        assert_eq!(read.line(), figure.line());
        let failed = Figure {
            again: vec![0.0],
            ..figure
        };
        assert!(failed.check().is_err() && Figure::default().check().is_err());
    }
}
