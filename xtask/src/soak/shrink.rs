//! Delta debugging: a part of a failing list that still fails, and of which nothing can be left out.

use anyhow::Result;

/// Leaves out parts of `all`, halves first and single items last, as long as the rest `fails`.
pub(super) fn minimize<T: Clone>(
    all: Vec<T>,
    mut fails: impl FnMut(&[T]) -> Result<bool>,
) -> Result<Vec<T>> {
    let mut rest = all;
    let mut size = rest.len().div_ceil(2);
    while size > 0 && rest.len() > 1 {
        let mut at = 0;
        let mut shorter = false;
        while at < rest.len() {
            let end = (at + size).min(rest.len());
            let without = [&rest[..at], &rest[end..]].concat();
            if !without.is_empty() && fails(&without)? {
                rest = without;
                shorter = true;
            } else {
                at = end;
            }
        }
        // Single items are tried until none of them can be left out.
        size = match size {
            1 if shorter => 1,
            _ => size / 2,
        };
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_failure_needs_is_left() {
        let needed = [3, 40, 41, 97];
        let mut runs = 0;
        let found = minimize((0..100).collect(), |items| {
            runs += 1;
            Ok(needed.iter().all(|item| items.contains(item)))
        });
        assert_eq!(found.unwrap(), needed);
        assert!(runs < 100, "{runs} runs");
    }

    #[test]
    fn one_item_that_fails_alone_is_found() {
        let found = minimize((0..64).collect(), |items| Ok(items.contains(&5)));
        assert_eq!(found.unwrap(), [5]);
    }

    #[test]
    fn a_run_that_cannot_be_made_ends_it() {
        assert!(minimize(vec![1, 2], |_| anyhow::bail!("no guest")).is_err());
    }
}
