//! Reads KTAP (`Documentation/dev-tools/ktap.rst`) in the variants that the kernel's selftests
//! print.
//!
//! Groups nest by a prefix, two spaces or, through kselftest's runner, "# ". A prefix opens a group
//! only with a version line, so that a diagnostic that looks like a result is not taken for one.

use serde::Serialize;
use zcnic_guest_protocol::selftest::Outcome;

/// A result that has no results below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KtapCase {
    /// Description; its number if it has none.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Directive's text; on a failure preceded by the diagnostics since the previous result.
    pub detail: String,
}

/// Everything a run printed.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Cases in the order of their results.
    pub cases: Vec<KtapCase>,
    /// Why the list of cases can not be trusted, as after a crash. A run with problems has failed.
    pub problems: Vec<String>,
}

impl Report {
    /// Number of cases with an outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.cases
            .iter()
            .filter(|case| case.outcome == outcome)
            .count()
    }
}

/// Diagnostics kept per failed case; the last lines matter most.
const DETAIL_LINES: usize = 40;

/// A version line and its lines.
#[derive(Default)]
struct KtapGroup {
    prefix: String,
    plan: Option<usize>,
    skip_all: Option<String>,
    results: usize,
    counts: [usize; 4],
    diagnostics: Vec<String>,
    /// First case of the whole report since this group's previous result.
    children: usize,
}

#[derive(Clone, Copy)]
enum Line<'a> {
    Version,
    Plan(usize, Option<&'a str>),
    Result {
        ok: bool,
        number: Option<usize>,
        text: &'a str,
    },
    Totals(&'a str),
    BailOut(&'a str),
}

fn classify(line: &str) -> Option<Line<'_>> {
    if line.starts_with("TAP version ") || line.starts_with("KTAP version ") {
        return Some(Line::Version);
    }
    if let Some(text) = line.strip_prefix("# Totals: ") {
        return Some(Line::Totals(text));
    }
    if let Some(text) = line.strip_prefix("Bail out!") {
        return Some(Line::BailOut(text.trim()));
    }
    if let Some(plan) = line.strip_prefix("1..") {
        let (count, reason) = plan
            .split_once('#')
            .map_or((plan, None), |(n, r)| (n, Some(r)));
        return Some(Line::Plan(
            count.trim().parse().ok()?,
            reason.map(str::trim),
        ));
    }
    let (ok, rest) = match line.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok")?),
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let rest = rest.trim_start();
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let number = rest[..digits].parse().ok();
    let text = if number.is_some() {
        rest[digits..].trim_start()
    } else {
        rest
    };
    Some(Line::Result {
        ok,
        number,
        text: text.strip_prefix("- ").unwrap_or(text),
    })
}

/// Parses a run's output.
#[must_use]
pub fn parse(output: &str) -> Report {
    let mut report = Report::default();
    let mut groups: Vec<KtapGroup> = Vec::new();
    for line in output.lines() {
        let line = plain(line);
        let line = line.trim_end();
        let text = line.trim_start_matches(['#', ' ']);
        if let Some(Line::Version) = classify(text) {
            let prefix = &line[..line.len() - text.len()];
            // A second version line at the same or an outer level ends the groups that were open
            // there.
            while groups
                .last()
                .is_some_and(|group| group.prefix.len() >= prefix.len())
            {
                close(&mut groups, &mut report);
            }
            let children = report.cases.len();
            groups.push(KtapGroup {
                prefix: prefix.into(),
                children,
                ..Default::default()
            });
            continue;
        }
        // The innermost group that the line can belong to.
        let found = groups.iter().enumerate().rev().find_map(|(depth, group)| {
            Some((depth, classify(line.strip_prefix(group.prefix.as_str())?)?))
        });
        let Some((depth, found)) = found else {
            if let Some(group) = groups.last_mut() {
                let own = line.strip_prefix(group.prefix.as_str()).unwrap_or(line);
                group.diagnostics.push(own.trim_start_matches("# ").into());
            }
            continue;
        };
        if let Line::Result { .. } = found {
            while groups.len() > depth + 1 {
                close(&mut groups, &mut report);
            }
        }
        apply(found, &mut groups[depth], &mut report);
    }
    while !groups.is_empty() {
        close(&mut groups, &mut report);
    }
    if report.cases.is_empty() && report.problems.is_empty() {
        report.problems.push("no test result".into());
    }
    report
}

fn apply(line: Line<'_>, group: &mut KtapGroup, report: &mut Report) {
    match line {
        Line::Version => {}
        Line::Plan(count, reason) => {
            group.plan = Some(count);
            group.skip_all = (count == 0).then(|| reason.unwrap_or("the plan is empty").into());
        }
        Line::BailOut(text) => report.problems.push(format!("bail out: {text}")),
        Line::Totals(text) => {
            let failed = ["fail:", "xpass:", "error:"]
                .map(|key| total(text, key))
                .iter()
                .sum();
            let [pass, skip, xfail] = ["pass:", "skip:", "xfail:"].map(|key| total(text, key));
            if [pass, failed, skip, xfail] != group.counts {
                let [pass, fail, skip, xfail] = group.counts;
                report.problems.push(format!(
                    "the totals are {text}, but there were pass:{pass} fail:{fail} skip:{skip} xfail:{xfail}"
                ));
            }
        }
        Line::Result { ok, number, text } => {
            group.results += 1;
            if number.is_some_and(|number| number != group.results) {
                let number = number.unwrap_or_default();
                report
                    .problems
                    .push(format!("result {number} follows {}", group.results - 1));
            }
            let (outcome, name, reason) = outcome_of(ok, text);
            group.counts[outcome as usize] += 1;
            let name = if name.is_empty() {
                group.results.to_string()
            } else {
                name.into()
            };
            let below = &report.cases[group.children..];
            let explained =
                outcome != Outcome::Fail || below.iter().any(|case| case.outcome == Outcome::Fail);
            if below.is_empty() || !explained {
                let mut detail = std::mem::take(&mut group.diagnostics);
                if outcome != Outcome::Fail {
                    detail.clear();
                }
                detail.drain(..detail.len().saturating_sub(DETAIL_LINES));
                detail.extend((!reason.is_empty()).then(|| reason.to_owned()));
                report.cases.push(KtapCase {
                    name,
                    outcome,
                    detail: detail.join("\n"),
                });
            }
            group.diagnostics.clear();
            group.children = report.cases.len();
        }
    }
}

/// Outcome, name and the directive's text.
fn outcome_of(ok: bool, text: &str) -> (Outcome, &str, &str) {
    let (name, comment) = match text.strip_prefix('#') {
        Some(comment) => ("", comment),
        None => text.split_once(" #").unwrap_or((text, "")),
    };
    let (name, comment) = (name.trim(), comment.trim());
    let (word, reason) = comment.split_once(' ').unwrap_or((comment, ""));
    match word {
        "SKIP" => (Outcome::Skip, name, reason),
        "XFAIL" | "TODO" => (Outcome::Xfail, name, reason),
        "XPASS" => (Outcome::Fail, name, comment),
        _ if ok => (Outcome::Pass, name, comment),
        _ => (Outcome::Fail, name, comment),
    }
}

/// Ends the innermost group.
fn close(groups: &mut Vec<KtapGroup>, report: &mut Report) {
    let Some(group) = groups.pop() else { return };
    match (group.plan, group.skip_all) {
        (Some(0), Some(reason)) if group.results == 0 => {
            let detail = reason
                .strip_prefix("SKIP")
                .unwrap_or(&reason)
                .trim()
                .to_owned();
            report.cases.push(KtapCase {
                name: "all".into(),
                outcome: Outcome::Skip,
                detail,
            });
        }
        (Some(plan), _) if plan != group.results => {
            let mut problem = format!("{} of {plan} planned results", group.results);
            if let Some(last) = group.diagnostics.last() {
                problem += &format!(", last line: {last}");
            }
            report.problems.push(problem);
        }
        (None, _) => report.problems.push("no plan".into()),
        _ => {}
    }
}

/// Number after `key` (as a word of its own: "fail:" is also the end of "xfail:").
fn total(text: &str, key: &str) -> usize {
    let found = text
        .split(' ')
        .find_map(|word| word.strip_prefix(key)?.parse().ok());
    found.unwrap_or(0)
}

/// Without ANSI escape sequences and carriage returns.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\r' => {}
            '\x1b' => {
                if rest.next() == Some('[') {
                    // Parameters, then one final character.
                    rest.by_ref().find(|c| ('@'..='~').contains(c));
                }
            }
            _ => text.push(c),
        }
    }
    text
}
