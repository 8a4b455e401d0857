//! The kernel's reports of bugs, in the text of a console: warnings, oopses, panics, and what KASAN,
//! KFENCE, lockdep and the detectors of hung tasks and lockups print.

use std::fmt;

/// Lines of a report that are shown. Only long lock chains and traces of all processors have more.
const MOST_LINES: usize = 200;
/// Lines between the end of a report and a panic that it led to, such as "note: … exited with irqs
/// disabled".
const LINES_BEFORE_PANIC: usize = 4;
/// The lines after "---[ end trace" that belong to an oops.
const REGISTERS: [&str; 12] = [
    "RIP:", "Code:", "RSP:", "RAX:", "RDX:", "RBP:", "R10:", "R13:", "FS:", "CS:", "CR2:", "PKRU:",
];

/// The first report of a console's text, and the number of further ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelReport {
    /// The first report, from its first line to its end.
    pub text: String,
    /// Its lines that `text` lacks because there are too many.
    pub omitted: usize,
    /// Number of the reports after it.
    pub others: usize,
}

impl KernelReport {
    /// Finds the reports in `console`; None if the kernel reported nothing.
    pub fn find(console: &str) -> Option<Self> {
        let lines: Vec<_> = console.lines().map(str::trim_end).collect();
        let (start, end) = next(&lines, 0)?;
        let (mut others, mut from) = (0, end);
        while let Some((_, end)) = next(&lines, from) {
            others += 1;
            from = end;
        }
        let all = &lines[start..end];
        let shown = &all[..all.len().min(MOST_LINES)];
        Some(Self {
            text: shown.join("\n"),
            omitted: all.len() - shown.len(),
            others,
        })
    }
}

impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest's kernel reported:\n{}", self.text)?;
        if self.omitted > 0 {
            write!(f, "\n({} more lines of this report)", self.omitted)?;
        }
        if self.others > 0 {
            write!(f, "\n({} more reports after this one)", self.others)?;
        }
        Ok(())
    }
}

/// How a report ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With "---[ end trace", and the registers after it.
    Trace,
    /// With "---[ end Kernel panic".
    Panic,
    /// With a line of equals signs.
    Frame,
    /// With the end of a call trace.
    Stack,
}

/// Returns the first report from the line `from` on: its first line, and the line after its last.
fn next(lines: &[&str], from: usize) -> Option<(usize, usize)> {
    let (at, ending) = (from..lines.len()).find_map(|at| Some((at, begins(lines, at)?)))?;
    Some((first_line(lines, at).max(from), end(lines, at, ending)))
}

/// Returns the line after the report's last one. `at` is the line that [`begins`] recognised.
fn end(lines: &[&str], at: usize, mut ending: Ending) -> usize {
    let mut traced = false;
    for line in at + 1..lines.len() {
        let text = message(lines[line]);
        let is_end = match ending {
            Ending::Trace => text.starts_with("---[ end trace"),
            Ending::Panic => text.starts_with("---[ end Kernel panic"),
            Ending::Frame => is_rule(text, '='),
            Ending::Stack => text.trim() == "</TASK>",
        };
        if is_end {
            return after(lines, line + 1, ending);
        }
        match begins(lines, line) {
            Some(Ending::Panic) => ending = Ending::Panic,
            // Another report, whose lines the first one's end may never follow.
            Some(_) if traced => return first_line(lines, line),
            _ => traced |= text.starts_with("Call Trace:"),
        }
    }
    lines.len()
}

/// Extends a report that ended before the line `end` by the registers of an oops, and by the panic
/// that it led to.
fn after(lines: &[&str], mut end: usize, ending: Ending) -> usize {
    let is_register = |line: &&str| {
        let text = message(line);
        REGISTERS.iter().any(|name| text.starts_with(name))
    };
    if ending == Ending::Trace {
        end += lines[end..]
            .iter()
            .take_while(|line| is_register(line))
            .count();
    }
    let soon = (end..lines.len()).take(LINES_BEFORE_PANIC);
    let panic = soon
        .take_while(|&at| matches!(begins(lines, at), None | Some(Ending::Panic)))
        .find(|&at| begins(lines, at).is_some());
    match panic {
        Some(at) if ending != Ending::Panic => self::end(lines, at, Ending::Panic),
        _ => end,
    }
}

/// Returns how the report ends that the line `at` begins; None if it begins none.
fn begins(lines: &[&str], at: usize) -> Option<Ending> {
    let text = message(lines[at]);
    let framed = at > 0 && is_rule(message(lines[at - 1]), '=');
    let is = |prefix: &str| text.starts_with(prefix);
    if text.contains("Kernel panic - not syncing") && !is("---[") {
        Some(Ending::Panic)
    } else if is("------------[ cut here ]") {
        Some(Ending::Trace)
    } else if is("BUG: KASAN:") || is("BUG: KFENCE:") || is("BUG: KCSAN:") || is("BUG: KMSAN:") {
        Some(if framed { Ending::Frame } else { Ending::Stack })
    } else if is("BUG: kernel NULL pointer")
        || is("BUG: unable to handle")
        || is("Oops: ")
        || is("general protection fault")
        || is("kernel BUG at ")
        || is("list_add corruption")
        || is("list_del corruption")
    {
        Some(Ending::Trace)
    } else if is("BUG: ")
        || is("BUG ")
        || is("watchdog: BUG: ")
        || is("INFO: trying to register non-static key")
        || (framed && (is("WARNING: ") || is("[ BUG: ")))
        || (text.contains("INFO: ") && text.contains("detected stall"))
        || (is("INFO: task ") && text.contains(" blocked "))
        || text.contains("hard LOCKUP")
    {
        Some(Ending::Stack)
    } else {
        None
    }
}

/// Returns the line that a report begins with in which [`begins`] recognised the line `at`: a rule
/// above a title belongs to it.
fn first_line(lines: &[&str], at: usize) -> usize {
    match at.checked_sub(1) {
        Some(above) if is_rule(message(lines[above]), '=') => above,
        _ => at,
    }
}

fn is_rule(text: &str, of: char) -> bool {
    text.len() >= 20 && text.chars().all(|c| c == of)
}

/// Returns a line of the console without the time, and without the thread or processor that
/// CONFIG_PRINTK_CALLER adds: `[   12.345678][  T123] `.
fn message(line: &str) -> &str {
    let mut text = line;
    while let Some((inside, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let inside = inside.trim_start_matches([' ', 'T', 'C']);
        if inside.is_empty() || !inside.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            break;
        }
        text = rest;
    }
    text.strip_prefix(' ')
        .filter(|_| text.len() < line.len())
        .unwrap_or(text)
}
