//! The line on standard error that shows what is going on: seconds, the step, and the last words of
//! the program that does it.
//!
//! On a terminal it is one line, which a thread redraws and which never exceeds the terminal's
//! width. Elsewhere a step that lasts prints a line every half minute.

use std::{
    env,
    io::{IsTerminal, Write, stderr},
    sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::termios::tcgetwinsize;
use unicode_width::UnicodeWidthChar;

/// Time between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(250);
/// Time between two lines elsewhere, so that the log of a CI job shows that the step lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// Columns of a terminal that does not report its width.
const COLUMNS: usize = 80;

const CLEAR_LINE: &str = "\r\x1b[K";
const DIM: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";
const RED: &str = "\x1b[1;31m";
const RESET: &str = "\x1b[0m";

/// Measures progress, such as bytes of a download.
type Gauge = Box<dyn Fn() -> String + Send>;

struct Step {
    number: u64,
    what: String,
    start: Instant,
    /// When the last line for this step was printed, without a terminal.
    shown: Instant,
    detail: String,
    gauge: Option<Gauge>,
}

impl Step {
    fn detail(&self) -> String {
        self.gauge
            .as_ref()
            .map_or_else(|| self.detail.clone(), |gauge| gauge())
    }
}

#[derive(Default)]
struct State {
    /// The steps under way, the innermost last; only that one is shown.
    steps: Vec<Step>,
    next: u64,
    watched: bool,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
/// A step has begun.
static BEGUN: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error as the progress line needs it.
#[derive(Clone, Copy)]
struct Screen {
    /// None unless it is a terminal that can clear a line.
    columns: Option<usize>,
    colours: bool,
}

impl Screen {
    fn look() -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal =
            stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let columns = terminal.then(|| {
            let size = tcgetwinsize(stderr()).ok();
            size.map(|size| usize::from(size.ws_col))
                .filter(|columns| *columns > 0)
                .unwrap_or(COLUMNS)
        });
        Self {
            columns,
            colours: terminal && !set("NO_COLOR"),
        }
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("{colour}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

/// A step under way. Dropping it, or ending it, removes it from the screen.
pub(crate) struct Progress {
    number: u64,
    start: Instant,
}

impl Progress {
    /// Shows the step `what`.
    pub(crate) fn begin(what: &str) -> Self {
        let mut state = state();
        if !state.watched {
            state.watched = true;
            thread::spawn(watch);
        }
        let number = state.next;
        state.next += 1;
        let start = Instant::now();
        state.steps.push(Step {
            number,
            what: what.to_owned(),
            start,
            shown: start,
            detail: String::new(),
            gauge: None,
        });
        draw(&state, Screen::look());
        BEGUN.notify_one();
        Self { number, start }
    }

    /// Replaces the step's line by the last one, which stays: the seconds that it took, and whether
    /// it failed.
    pub(crate) fn end(self, what: &str, failed: bool) {
        let mut state = state();
        state.steps.retain(|step| step.number != self.number);
        let screen = Screen::look();
        let seconds = format!("{:6.1}s", self.start.elapsed().as_secs_f64());
        let verdict = if failed { "  FAILED" } else { "" };
        let room = screen.columns.map_or(usize::MAX, |columns| {
            columns.saturating_sub(1 + seconds.len() + 2 + verdict.len())
        });
        let line = format!(
            "{seconds}  {}{}\n",
            cut(what, room),
            screen.paint(RED, verdict)
        );
        say(screen, &line);
        draw(&state, screen);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut state = state();
        let before = state.steps.len();
        state.steps.retain(|step| step.number != self.number);
        if state.steps.len() < before {
            say(Screen::look(), "");
        }
    }
}

/// Shows `line`, the last words of a program, with the current step.
pub(crate) fn detail(line: &str) {
    let line = plain(line);
    if line.is_empty() {
        return;
    }
    if let Some(step) = state().steps.last_mut() {
        step.detail = line;
    }
}

/// While it lives, the current step shows a measurement instead of a program's last words.
pub(crate) struct Measured(Option<u64>);

/// Shows what `gauge` returns with the current step, until the result is dropped.
pub(crate) fn measure(gauge: impl Fn() -> String + Send + 'static) -> Measured {
    let mut state = state();
    Measured(state.steps.last_mut().map(|step| {
        step.gauge = Some(Box::new(gauge));
        step.number
    }))
}

impl Drop for Measured {
    fn drop(&mut self) {
        let mut state = state();
        let step = state
            .steps
            .iter_mut()
            .find(|step| Some(step.number) == self.0);
        if let Some(step) = step {
            step.gauge = None;
        }
    }
}

/// Prints a line beside the steps.
pub fn note(text: &str) {
    let state = state();
    let screen = Screen::look();
    say(screen, &format!("         {text}\n"));
    draw(&state, screen);
}

/// Removes the line of the current step from a terminal, for a process that is about to end.
pub fn clear() {
    if STATE.try_lock().is_ok_and(|state| !state.steps.is_empty()) {
        say(Screen::look(), "");
    }
}

/// The thread that redraws the line.
fn watch() {
    let mut state = state();
    loop {
        if state.steps.is_empty() {
            state = BEGUN.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        state = BEGUN
            .wait_timeout(state, REDRAW)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let screen = Screen::look();
        if screen.columns.is_some() {
            draw(&state, screen);
        } else if let Some(step) = state.steps.last_mut()
            && step.shown.elapsed() >= SIGN_OF_LIFE
        {
            step.shown = Instant::now();
            eprint!("{}", sign_of_life(step));
        }
    }
}

/// The line for a step that lasts, without a terminal.
fn sign_of_life(step: &Step) -> String {
    let detail = step.detail();
    let separator = if detail.is_empty() { "" } else { "; " };
    format!(
        "         {}: {} s so far{separator}{detail}\n",
        step.what,
        step.start.elapsed().as_secs()
    )
}

/// Draws the innermost step on a terminal.
fn draw(state: &State, screen: Screen) {
    if let (Some(columns), Some(step)) = (screen.columns, state.steps.last()) {
        say(screen, &line(step, columns, screen));
    }
}

/// Returns the line of a running step, in fewer than `columns` columns: some terminals wrap a line
/// that fills the last one.
fn line(step: &Step, columns: usize, screen: Screen) -> String {
    let seconds = format!("{:6.1}s", step.start.elapsed().as_secs_f64());
    let seconds = cut(&seconds, columns.saturating_sub(1));
    let room = columns.saturating_sub(1 + width(&seconds));
    let what = cut(&format!("  {}", step.what), room);
    let room = room.saturating_sub(width(&what) + 2);
    let detail = step.detail();
    let detail = if detail.is_empty() || room < 8 {
        String::new()
    } else {
        format!("  {}", cut(&detail, room))
    };
    format!(
        "{}{what}{}",
        screen.paint(CYAN, &seconds),
        screen.paint(DIM, &detail)
    )
}

/// Writes `text` in the place of the line that is drawn. One write, so that lines of other threads
/// do not come in between.
fn say(screen: Screen, text: &str) {
    let clear = if screen.columns.is_some() {
        CLEAR_LINE
    } else {
        ""
    };
    let _ = stderr()
        .lock()
        .write_all(format!("{clear}{text}").as_bytes());
}

fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Cuts `text` to `room` columns; an ellipsis ends a text that was longer.
fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let mut short = String::new();
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if columns > left {
            break;
        }
        left -= columns;
        short.push(c);
    }
    if room > 0 {
        short.push('…');
    }
    short
}

/// Returns a program's line without control characters and escape sequences.
fn plain(line: &str) -> String {
    // A program that redraws its own line ends each version with a carriage return.
    let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        if c == '\x1b' {
            if characters.next() == Some('[') {
                characters.by_ref().find(|c| ('@'..='~').contains(c));
            }
        } else if c == '\t' {
            text.push(' ');
        } else if !c.is_control() {
            text.push(c);
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(what: &str, detail: &str) -> Step {
        Step {
            number: 0,
            what: what.to_owned(),
            start: Instant::now(),
            shown: Instant::now(),
            detail: detail.to_owned(),
            gauge: None,
        }
    }

    const PLAIN: Screen = Screen {
        columns: Some(80),
        colours: false,
    };

    #[test]
    fn a_line_never_fills_the_terminal() {
        let long = "x".repeat(200);
        for columns in 0..120 {
            for what in ["build zcnic", &long, "日本語の名前の手順です"] {
                for detail in ["", "Compiling zcnic-device", &long, "日本語日本語日本語"] {
                    let line = line(&step(what, detail), columns, PLAIN);
                    assert!(width(&line) < columns.max(1), "{columns}: {line:?}");
                }
            }
        }
    }

    #[test]
    fn a_line_has_seconds_step_and_detail() {
        let line = line(&step("compile Linux", "CC fs/ext4/inode.o"), 80, PLAIN);
        assert_eq!(line, "   0.0s  compile Linux  CC fs/ext4/inode.o");
    }

    #[test]
    fn colours_are_reset_at_the_end() {
        let screen = Screen {
            colours: true,
            ..PLAIN
        };
        let line = line(&step("a", "b"), 80, screen);
        assert_eq!(line, "\x1b[36m   0.0s\x1b[0m  a\x1b[2m  b\x1b[0m");
    }

    #[test]
    fn a_program_s_escape_sequences_are_left_out() {
        assert_eq!(
            plain("\x1b[1m\x1b[32m   Compiling\x1b[0m a\tb\x07\n"),
            "Compiling a b"
        );
        assert_eq!(plain(" 10 %\r 20 %\r"), "20 %");
        assert_eq!(plain("\x1b"), "");
    }

    #[test]
    fn without_a_terminal_a_line_tells_what_goes_on() {
        let mut long = step("compile Linux", "CC a.o");
        assert_eq!(
            sign_of_life(&long),
            "         compile Linux: 0 s so far; CC a.o\n"
        );
        long.gauge = Some(Box::new(|| "3 of 10 MB".to_owned()));
        assert!(sign_of_life(&long).ends_with("so far; 3 of 10 MB\n"));
    }
}
