//! The `--report FILE` JSON of commands, and the closing line of test commands.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::html;

/// The extension of the page that every report gets.
const PAGE: &str = "html";

/// The option `--report FILE`, for clap's `flatten`.
#[derive(clap::Args, Debug)]
pub struct ReportArg {
    /// Write the results to FILE as one JSON object, and beside it as a page to read, FILE.html. A
    /// FILE that ends with .html gets the page only
    #[arg(long, value_name = "FILE", value_parser = output_file)]
    pub report: Option<PathBuf>,
}

/// Parses the path of a file that a command writes at its end, for clap. A path that can't be
/// written is refused then, and not when the results are lost.
///
/// # Errors
///
/// If the file can't be opened for writing. A file that is there stays as it is.
pub fn output_file(path: &str) -> io::Result<PathBuf> {
    let path = PathBuf::from(path);
    match fs::File::create_new(&path) {
        Ok(_) => fs::remove_file(&path)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::File::options().write(true).open(&path)?;
        }
        Err(error) => return Err(error),
    }
    Ok(path)
}

impl ReportArg {
    /// Writes `report` to the file, and as HTML beside it (FILE.html), if the option was given.
    pub fn write(&self, report: &Value) -> Result<()> {
        self.write_with_plots(report, &[])
    }

    /// As [`write`](Self::write), with SVG elements for the HTML.
    pub fn write_with_plots(&self, report: &Value, plots: &[&str]) -> Result<()> {
        let Some(path) = &self.report else {
            return Ok(());
        };
        let words: Vec<_> = env::args().skip(1).collect();
        let page = html::write(&format!("zcnic: {}", words.join(" ")), report, plots);
        if path.extension().is_none_or(|extension| extension != PAGE) {
            write(path, &format!("{report:#}\n"))?;
        }
        self.write_beside(PAGE, &page)
    }

    /// Writes `text` beside that file, with another extension, if the option was given.
    pub fn write_beside(&self, extension: &str, text: &str) -> Result<()> {
        self.beside(extension)
            .map_or(Ok(()), |path| write(&path, text))
    }

    /// Returns the path beside the report with another extension. There is none beside a pipe or a
    /// terminal.
    fn beside(&self, extension: &str) -> Option<PathBuf> {
        let path = self.report.as_deref()?;
        (!path.exists() || path.is_file()).then(|| path.with_extension(extension))
    }

    /// Fails if a file that is written beside it can't be written, or would replace the report
    /// because that has its extension.
    pub fn leaves_room_for(&self, extensions: &[&str]) -> Result<()> {
        let path = self.report.as_deref().unwrap_or(Path::new(""));
        if let Some(extension) = path.extension().and_then(OsStr::to_str)
            && extensions.contains(&extension)
        {
            bail!(
                "--report {}: FILE.{extension} is written beside the report; call the report FILE.json",
                path.display()
            );
        }
        for extension in extensions.iter().chain(&[PAGE]) {
            if let Some(beside) = self.beside(extension) {
                output_file(&beside.to_string_lossy())
                    .with_context(|| format!("cannot write {}", beside.display()))?;
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write the report {}", path.display()))
}

/// How a test case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Pass,
    /// Otherwise than it should.
    Fail,
    /// It did not run.
    Skip,
    /// With a failure that was expected.
    Xfail,
}

impl Outcome {
    /// The word that the kernel's selftests print for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Xfail => "XFAIL",
        }
    }
}

/// One test case.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Case {
    /// `file.py:case`, or the name of the test.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds that it took; 0 where the harness does not report them.
    pub seconds: f64,
    /// Why it failed or was skipped, or further output of a pass.
    pub detail: String,
}

/// The cases of a run, and further keys for its report (kernel, commit …).
#[derive(Debug, Default)]
pub struct Report {
    /// All cases.
    pub cases: Vec<Case>,
    /// Further keys of the JSON object, with their values.
    pub extra: Map<String, Value>,
}

impl Case {
    /// Returns a failed case without a time, for a failure outside the harness that takes the
    /// times.
    pub fn failed(name: &str, detail: String) -> Self {
        Self {
            name: name.to_owned(),
            outcome: Outcome::Fail,
            seconds: 0.0,
            detail,
        }
    }

    /// Prints a line with outcome, seconds and name, and below it the detail unless it passed.
    pub fn print(&self) {
        let verdict = self.outcome.word();
        println!("{verdict:5} {:6.1}s  {}", self.seconds, self.name);
        if self.outcome != Outcome::Pass {
            self.detail
                .lines()
                .for_each(|line| println!("               {line}"));
        }
    }
}

impl Report {
    /// Returns the number of cases with this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.cases
            .iter()
            .filter(|case| case.outcome == outcome)
            .count()
    }

    /// Returns the closing line of every test command. An expected failure counts as neither passed
    /// nor failed, and has a line of its own if there is one.
    pub fn summary(&self) -> String {
        let xfail = match self.count(Outcome::Xfail) {
            0 => String::new(),
            count => format!("{count} failed as expected\n"),
        };
        format!(
            "{xfail}{} passed, {} failed, {} skipped",
            self.count(Outcome::Pass),
            self.count(Outcome::Fail),
            self.count(Outcome::Skip),
        )
    }

    /// Returns the object for `--report`.
    pub fn to_json(&self) -> Value {
        let mut object = self.extra.clone();
        for (name, outcome) in [
            ("pass", Outcome::Pass),
            ("fail", Outcome::Fail),
            ("skip", Outcome::Skip),
            ("xfail", Outcome::Xfail),
        ] {
            object.insert(name.to_owned(), json!(self.count(outcome)));
        }
        object.insert("cases".to_owned(), json!(self.cases));
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(outcome: Outcome) -> Case {
        Case {
            name: "a test".to_owned(),
            outcome,
            seconds: 0.5,
            detail: String::new(),
        }
    }

    #[test]
    fn what_is_written_beside_the_report_does_not_replace_it() {
        let arg = |path: &str| ReportArg {
            report: Some(path.into()),
        };
        assert!(arg("/tmp/r.json").leaves_room_for(&["xml"]).is_ok());
        assert!(arg("r.xml").leaves_room_for(&["xml"]).is_err());
        assert!(ReportArg { report: None }.leaves_room_for(&["xml"]).is_ok());
    }

    #[test]
    fn a_page_is_written_beside_the_report_or_alone() {
        let directory = tempfile::tempdir().unwrap();
        for (name, files) in [
            ("r.json", &["r.html", "r.json"][..]),
            ("s.html", &["s.html"]),
        ] {
            let path = directory.path().join(name);
            ReportArg { report: Some(path) }
                .write(&json!({"pass": 1}))
                .unwrap();
            let written = fs::read_dir(&directory).unwrap();
            let names = written.map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|file| file[..1] == name[..1]).collect();
            names.sort();
            assert_eq!(names, files);
        }
        let page = fs::read_to_string(directory.path().join("r.html")).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>"));
        let json = fs::read_to_string(directory.path().join("r.json")).unwrap();
        assert_eq!(json, "{\n  \"pass\": 1\n}\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused_before_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let error = output_file(&path("missing/r.json")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(output_file(&path("")).is_err(), "a directory");
        output_file(&path("new.json")).unwrap();
        assert!(
            !Path::new(&path("new.json")).exists(),
            "no empty file stays"
        );
        fs::write(path("old.json"), "old").unwrap();
        output_file(&path("old.json")).unwrap();
        assert_eq!(fs::read_to_string(path("old.json")).unwrap(), "old");
        // A FIFO or /dev/stdout is a file, too.
        output_file("/dev/null").unwrap();

        fs::create_dir(path("r.xml")).unwrap();
        let arg = ReportArg {
            report: Some(path("r.json").into()),
        };
        let error = arg.leaves_room_for(&["ktap", "xml"]).unwrap_err();
        assert!(error.to_string().contains("r.xml"), "{error:#}");
    }

    #[test]
    fn the_report_counts_each_outcome_apart() {
        use Outcome::{Fail, Pass, Skip, Xfail};
        let cases = [Pass, Pass, Fail, Skip, Xfail, Xfail].map(case).to_vec();
        let mut report = Report {
            cases,
            ..Report::default()
        };
        report.extra.insert("kernel".to_owned(), json!("7.3.4"));
        assert_eq!(
            report.summary(),
            "2 failed as expected\n2 passed, 1 failed, 1 skipped"
        );
        let json = report.to_json();
        assert_eq!(json["pass"], 2);
        assert_eq!(json["fail"], 1);
        assert_eq!(json["skip"], 1);
        assert_eq!(json["xfail"], 2);
        assert_eq!(json["kernel"], "7.3.4");
        assert_eq!(json["cases"][4]["outcome"], "xfail");
    }
}
