//! Rates of counters.

use std::time::Duration;

/// Growth of a counter per second; `None` if it went back, as with another backend.
pub(crate) fn per_second(before: u64, now: u64, elapsed: Duration) -> Option<f64> {
    let growth = now.checked_sub(before)?;
    let seconds = elapsed.as_secs_f64();
    (seconds > 0.0).then(|| growth as f64 / seconds)
}

/// A rate with three digits and a decimal prefix: `1.25M`.
pub(crate) fn brief(rate: f64) -> String {
    let mut value = rate;
    for prefix in ["", "k", "M", "G", "T"] {
        // What rounds to four digits has the next prefix.
        if value < 999.5 {
            let digits = match value {
                _ if prefix.is_empty() && value.fract() == 0.0 => 0,
                ..9.995 => 2,
                ..99.95 => 1,
                _ => 0,
            };
            return format!("{value:.digits$}{prefix}");
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits() {
        for (rate, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.5, "0.50"),
            (9.999, "10.0"),
            (999.0, "999"),
            (999.6, "1.00k"),
            (1_254_000.0, "1.25M"),
            (99_990_000_000.0, "100G"),
        ] {
            assert_eq!(brief(rate), text, "{rate}");
        }
    }

    #[test]
    fn a_counter_that_went_back_has_no_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(per_second(5, 4, second), None);
        assert_eq!(per_second(5, 9, 2 * second), Some(2.0));
        assert_eq!(per_second(5, 9, Duration::ZERO), None);
    }
}
