//! A report as one HTML file without external resources, for people.
//!
//! It shows whatever the JSON report has: the cases, the violations of the ledger with the lives of
//! their buffers, plots, and all further keys as facts and tables. Text from a guest is untrusted,
//! so all text is escaped.

mod life;

use std::fmt::{Display, Write};

use serde::Deserialize;
use serde_json::{Map, Value};

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

/// Keys that have a section of their own, or repeat the cases.
const SHOWN: [&str; 6] = ["cases", "violations", "pass", "fail", "skip", "xfail"];

/// A case, as a report has it.
#[derive(Deserialize)]
struct Case {
    name: String,
    outcome: Outcome,
    seconds: f64,
    detail: String,
}

/// How a case ended. The order is that of the table: first what needs attention.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Fail,
    Xfail,
    Skip,
    Pass,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Fail, Self::Xfail, Self::Skip, Self::Pass];

    /// The class of its elements, which is also its value in the filter.
    fn class(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Xfail => "xfail",
            Self::Skip => "skip",
            Self::Pass => "pass",
        }
    }
}

/// Returns the document. `title` names the run, `report` is its JSON object, and `plots` are SVG
/// elements, which are not escaped.
pub fn write(title: &str, report: &Value, plots: &[&str]) -> String {
    let nothing = Map::new();
    let object = report.as_object().unwrap_or(&nothing);
    let cases: Vec<Case> = object
        .get("cases")
        .and_then(|cases| serde_json::from_value(cases.clone()).ok())
        .unwrap_or_default();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n",
        title = escaped(title)
    );
    if !cases.is_empty() {
        page.push_str(&totals(&cases));
    }
    page.push_str(&facts(object));
    if !cases.is_empty() {
        page.push_str(&table(&cases));
    }
    page.push_str(&life::violations(object.get("violations")));
    for plot in plots {
        page.push_str(&format!(
            "<h2>Plot</h2>\n<figure class=\"plot\">{plot}</figure>\n"
        ));
    }
    let tables = object.iter().filter(|(key, _)| !SHOWN.contains(&&***key));
    tables.for_each(|(key, value)| page.push_str(&further(key, value)));
    page.push_str(&format!(
        "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    ));
    page
}

/// Text between tags or in a quoted attribute.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(character),
            // HTML can't contain them.
            control if control.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

fn count(cases: &[Case], outcome: Outcome) -> usize {
    let ended_so = cases.iter().filter(|case| case.outcome == outcome);
    ended_so.count()
}

fn totals(cases: &[Case]) -> String {
    let mut text = "<p class=\"total\">".to_owned();
    for (outcome, words) in [
        (Outcome::Pass, "passed"),
        (Outcome::Fail, "failed"),
        (Outcome::Skip, "skipped"),
        (Outcome::Xfail, "failed as expected"),
    ] {
        let number = count(cases, outcome);
        if number > 0 || outcome != Outcome::Xfail {
            // Without any there is nothing to point out.
            let class = if number > 0 { outcome.class() } else { "skip" };
            let _ = write!(text, "<strong class=\"{class}\">{number} {words}</strong> ");
        }
    }
    text + "</p>\n"
}

/// A value that fits a line, as text.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if number.is_f64() && float.abs() >= 1000.0 => format!("{float:.0}"),
            Some(float) if number.is_f64() => format!("{float:.3}"),
            _ => number.to_string(),
        }),
        Value::String(text) => Some(text.clone()),
        // Not the samples of a benchmark.
        Value::Array(items) if items.len() > 2 && items.iter().all(Value::is_number) => None,
        Value::Array(items) => {
            let words: Option<Vec<_>> = items.iter().map(word).collect();
            Some(words?.join(" "))
        }
        Value::Object(_) => None,
    }
}

fn facts(object: &Map<String, Value>) -> String {
    let words = object
        .iter()
        .filter(|(key, value)| !SHOWN.contains(&&***key) && !value.is_null())
        .filter_map(|(key, value)| Some((key, word(value)?)))
        .filter(|(_, word)| !word.is_empty());
    let list = definitions(words);
    if list.is_empty() {
        return list;
    }
    format!("<h2>Facts</h2>\n{list}")
}

fn definitions(words: impl Iterator<Item = (impl AsRef<str>, String)>) -> String {
    let mut list = String::new();
    for (key, word) in words {
        let (key, word) = (escaped(key.as_ref()), escaped(&word));
        let _ = writeln!(list, "<dt>{key}</dt><dd>{word}</dd>");
    }
    if list.is_empty() {
        return list;
    }
    format!("<dl>\n{list}</dl>\n")
}

fn table(cases: &[Case]) -> String {
    let longest = cases.iter().map(|case| case.seconds).fold(0.0, f64::max);
    let mut text = "<h2>Cases</h2>\n<form id=\"filter\" hidden>\n".to_owned();
    for outcome in Outcome::ALL {
        let (class, number) = (outcome.class(), count(cases, outcome));
        if number > 0 {
            let _ = writeln!(
                text,
                "<label class=\"{class}\"><input type=\"checkbox\" name=\"outcome\" \
                 value=\"{class}\" checked> {class} ({number})</label>"
            );
        }
    }
    text.push_str(
        "<label>Text <input type=\"search\" name=\"words\"></label>\n\
         <output name=\"shown\"></output>\n</form>\n<div class=\"scroll\">\n\
         <table id=\"cases\">\n<thead><tr><th scope=\"col\">Outcome</th>\
         <th scope=\"col\">Case</th><th scope=\"col\" class=\"number\">Seconds</th></tr></thead>\n\
         <tbody>\n",
    );
    let mut sorted: Vec<_> = cases.iter().collect();
    sorted.sort_by_key(|case| case.outcome);
    for case in sorted {
        text.push_str(&row(case, longest));
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn row(case: &Case, longest: f64) -> String {
    let (class, rank) = (case.outcome.class(), case.outcome as usize);
    let (name, seconds) = (escaped(&case.name), case.seconds);
    let detail = case.detail.trim_end();
    let cell = if detail.is_empty() {
        name.clone()
    } else {
        let open = if case.outcome == Outcome::Fail {
            " open"
        } else {
            ""
        };
        let detail = escaped(detail);
        format!("<details{open}><summary>{name}</summary><pre>{detail}</pre></details>")
    };
    let percent = if longest > 0.0 {
        100.0 * seconds / longest
    } else {
        0.0
    };
    format!(
        "<tr data-outcome=\"{class}\" data-rank=\"{rank}\" data-name=\"{name}\" \
         data-seconds=\"{seconds}\"><td class=\"outcome {class}\">{}</td>\
         <td class=\"name\">{cell}</td><td class=\"time\">{seconds:.1}\
         <span class=\"bar\" style=\"width:{percent:.1}%\" aria-hidden=\"true\"></span></td></tr>\n",
        class.to_uppercase()
    )
}

/// A key whose value does not fit a line: a list of objects as a table, an object as definitions.
fn further(key: &str, value: &Value) -> String {
    let (words, rest) = match value {
        Value::Array(items) => (String::new(), grid(items)),
        Value::Object(members) => {
            let words = members
                .iter()
                .filter_map(|(key, value)| Some((key, word(value)?)));
            let objects = members.iter().filter(|(_, value)| value.is_object());
            let objects = objects.map(|(key, value)| further(key, value));
            (definitions(words), objects.collect())
        }
        _ => return String::new(),
    };
    if words.is_empty() && rest.is_empty() {
        return String::new();
    }
    let key = escaped(key);
    format!("<h2>{key}</h2>\n{words}{rest}")
}

/// A table of objects; its columns are the members that fit a line.
fn grid(items: &[Value]) -> String {
    let objects: Vec<_> = items.iter().filter_map(Value::as_object).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (key, value) in objects.iter().flat_map(|object| object.iter()) {
        if word(value).is_some_and(|word| !word.is_empty()) && !columns.contains(&key) {
            columns.push(key);
        }
    }
    let is_number =
        |object: &&Map<String, Value>, key: &str| object.get(key).is_some_and(Value::is_number);
    columns.sort_by_key(|key| {
        let numbers = objects.iter().any(|object| is_number(object, key));
        (*key != "name", numbers)
    });
    if columns.is_empty() {
        return String::new();
    }
    let mut text = "<div class=\"scroll\">\n<table>\n<thead><tr>".to_owned();
    for key in &columns {
        let numbers = objects.iter().any(|object| is_number(object, key));
        let class = if numbers { " class=\"number\"" } else { "" };
        let _ = write!(text, "<th scope=\"col\"{class}>{}</th>", escaped(key));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for object in objects {
        text.push_str("<tr>");
        for key in &columns {
            let value = object.get(*key);
            let class = if value.is_some_and(Value::is_number) {
                " class=\"number\""
            } else {
                ""
            };
            let word = value.and_then(word).unwrap_or_default();
            let _ = write!(text, "<td{class}>{}</td>", escaped(&word));
        }
        text.push_str("</tr>\n");
    }
    text + "</tbody>\n</table>\n</div>\n"
}

/// A number of nanoseconds in a unit that people read.
fn duration(nanoseconds: impl Into<u64>) -> impl Display {
    let nanoseconds = nanoseconds.into();
    let float = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", float / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", float / 1e6),
        _ => format!("{:.2} s", float / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        program::tests::program_run,
        report::{Case, Report},
    };

    fn report() -> Report {
        let mut report = Report {
            cases: program_run().cases,
            ..Report::default()
        };
        report.cases[0].seconds = 3.0;
        report.extra.insert("kernel".to_owned(), json!("7.3.4"));
        report.extra.insert("ledger".to_owned(), Value::Null);
        let programs = json!([{"pass": 3, "name": "a.py"}, {"pass": 4, "name": "b.py"}]);
        report.extra.insert("programs".to_owned(), programs);
        report
    }

    #[test]
    fn every_case_has_a_row_and_failures_come_first_and_open() {
        let page = write("kselftest", &report().to_json(), &[]);
        assert_eq!(page.matches("<tr data-outcome").count(), 5, "{page}");
        assert_eq!(page.matches("<details open>").count(), 2, "{page}");
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
        assert!(at("a.py:bad") < at("a.py:good"));
        assert!(page.contains("2 failed</strong>") && page.contains("1 failed as expected"));
        assert!(page.contains("<dt>kernel</dt><dd>7.3.4</dd>"));
        assert!(!page.contains("<dt>ledger</dt>"), "it is null");
        let bars = ["width:100.0%", "width:50.0%"];
        assert!(bars.iter().all(|bar| page.contains(bar)), "{page}");
        // The name comes first.
        assert!(
            page.contains("<tr><td>a.py</td><td class=\"number\">3</td></tr>"),
            "{page}"
        );
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = write("x", &report().to_json(), &["<svg></svg>"]);
        for word in ["src=", "href=", "url(", "@import", "http://", "https://"] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("<figure class=\"plot\"><svg></svg></figure>"));
    }

    #[test]
    fn no_text_becomes_markup() {
        let evil = "</pre></script><script>alert(1)</script>\"' onload=x \u{1b}[31m&";
        let mut report = report();
        report.cases = vec![Case::failed(evil, evil.to_owned())];
        report.extra.insert(evil.to_owned(), json!(evil));
        report
            .extra
            .insert("nested".to_owned(), json!([{ evil: evil }]));
        report
            .extra
            .insert("object".to_owned(), json!({ evil: {evil: evil} }));
        let violation = json!({"kind": evil, "case": evil, "queue": evil, "desc": evil,
            "time": evil, "buffers": [{"address": evil, "length": evil,
            "events": [{"time": evil, "head": evil, "what": evil}, {"time": 1, "head": 0, "what": "posted"}]}]});
        report
            .extra
            .insert("violations".to_owned(), json!([violation]));
        let page = write(evil, &report.to_json(), &[]);
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("</script").count(), 1);
        assert!(!page.contains("</pre></script") && !page.contains('\u{1b}'));
        assert!(!page.contains("\"' onload"));
    }

    #[test]
    fn any_report_makes_a_page() {
        for report in [
            json!(null),
            json!([1]),
            json!({"cases": 5, "violations": 7, "x": {}}),
        ] {
            let page = write("x", &report, &[]);
            assert!(
                page.ends_with("</html>\n") && !page.contains("<table"),
                "{page}"
            );
        }
    }
}
