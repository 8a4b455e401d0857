//! How often each point recovered, and in how many seconds.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zcnic_results::report::{Case, Outcome};

/// One blow.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Trial {
    pub(super) point: String,
    pub(super) seed: u64,
    /// From the blow, or from the end of the pause, until everything has recovered; 0 if it did
    /// not.
    pub(super) seconds: f64,
    /// Why it did not recover.
    pub(super) error: Option<String>,
}

/// All trials, in their order.
#[derive(Debug, Default)]
pub(super) struct Tally(Vec<Trial>);

impl Tally {
    pub(super) fn add(&mut self, trial: Trial) {
        self.0.push(trial);
    }

    /// Points in the order of their first trials, each with its trials.
    fn points(&self) -> Vec<(&str, Vec<&Trial>)> {
        let mut points: Vec<(&str, Vec<&Trial>)> = Vec::new();
        for trial in &self.0 {
            match points.iter_mut().find(|(name, _)| *name == trial.point) {
                Some((_, trials)) => trials.push(trial),
                None => points.push((&trial.point, vec![trial])),
            }
        }
        points
    }

    /// Prints all points.
    pub(super) fn print(&self) {
        self.points()
            .iter()
            .for_each(|(name, trials)| print(name, trials));
    }

    /// Prints the last trial's point, with what is known of it.
    pub(super) fn print_last(&self) {
        let points = self.points();
        let last = self.0.last().map(|trial| &*trial.point);
        let last = points.iter().find(|(name, _)| Some(*name) == last);
        last.iter().for_each(|(name, trials)| print(name, trials));
    }

    /// A case per point.
    pub(super) fn cases(&self) -> Vec<Case> {
        let points = self.points().into_iter();
        points.map(|(name, trials)| case(name, &trials)).collect()
    }

    /// An object per point.
    pub(super) fn to_json(&self) -> Value {
        let one = |(name, trials): (&str, Vec<&Trial>)| {
            let [recovered, mean, most] = seconds(&trials);
            let failed: Vec<_> = trials
                .iter()
                .filter(|trial| trial.error.is_some())
                .collect();
            json!({
                "point": name,
                "recovered": recovered as u64,
                "total": trials.len(),
                "seconds_mean": mean,
                "seconds_most": most,
                "failures": failed,
            })
        };
        self.points().into_iter().map(one).collect()
    }
}

/// Number of recoveries, and their mean and longest time.
fn seconds(trials: &[&Trial]) -> [f64; 3] {
    let times: Vec<_> = trials
        .iter()
        .filter(|trial| trial.error.is_none())
        .map(|trial| trial.seconds)
        .collect();
    let count = times.len() as f64;
    let sum: f64 = times.iter().sum();
    let most = times.iter().copied().fold(0.0, f64::max);
    [count, sum / count.max(1.0), most]
}

fn print(name: &str, trials: &[&Trial]) {
    let case = case(name, trials);
    println!("{:5} {name}: {}", case.outcome.word(), case.detail);
}

fn case(name: &str, trials: &[&Trial]) -> Case {
    let [recovered, mean, most] = seconds(trials);
    let total = trials.len();
    let mut detail = format!(
        "{recovered} of {total} recovered, in {mean:.2} s on average and {most:.2} s at most"
    );
    let errors = trials
        .iter()
        .filter_map(|trial| Some(format!("\nseed {}: {}", trial.seed, trial.error.as_ref()?)));
    detail.extend(errors);
    Case {
        name: format!("crash: {name}"),
        outcome: if recovered as usize == total {
            Outcome::Pass
        } else {
            Outcome::Fail
        },
        seconds: trials.iter().map(|trial| trial.seconds).sum(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_fails_if_one_of_its_seeds_does() {
        let mut tally = Tally::default();
        for (point, seed, error) in [("a", 1, None), ("b", 1, None), ("a", 2, Some("it hangs"))] {
            tally.add(Trial {
                point: point.to_owned(),
                seed,
                seconds: if error.is_some() { 0.0 } else { 0.5 },
                error: error.map(str::to_owned),
            });
        }
        let [a, b] = <[_; 2]>::try_from(tally.cases()).unwrap();
        assert_eq!((a.outcome, b.outcome), (Outcome::Fail, Outcome::Pass));
        assert_eq!(
            a.detail,
            "1 of 2 recovered, in 0.50 s on average and 0.50 s at most\nseed 2: it hangs"
        );
        let json = tally.to_json();
        assert_eq!(
            (&json[0]["recovered"], &json[0]["total"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(json[0]["failures"][0]["seed"], 2);
    }
}
