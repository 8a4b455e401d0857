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
    /// The title of the last one, such as the panic.
    pub last: Option<String>,
}

impl KernelReport {
    /// Finds the reports in `console`; None if the kernel reported nothing.
    pub fn find(console: &str) -> Option<Self> {
        let lines: Vec<_> = console.lines().map(str::trim_end).collect();
        let (start, end) = next(&lines, 0)?;
        let (mut others, mut last, mut from) = (0, None, end);
        while let Some((start, end)) = next(&lines, from) {
            others += 1;
            last = title(&lines[start..end]);
            from = end;
        }
        let all = &lines[start..end];
        let shown = &all[..all.len().min(MOST_LINES)];
        Some(Self {
            text: shown.join("\n"),
            omitted: all.len() - shown.len(),
            others,
            last,
        })
    }
}

/// Returns the line of a report that says what happened.
fn title(report: &[&str]) -> Option<String> {
    let says = |text: &&str| {
        let words = ["BUG", "WARNING", "Oops", "panic", "INFO: "];
        words.iter().any(|word| text.contains(word))
    };
    let mut messages = report.iter().map(|line| message(line));
    messages.find(says).map(str::to_owned)
}

impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest's kernel reported:\n{}", self.text)?;
        if self.omitted > 0 {
            write!(f, "\n({} more lines of this report)", self.omitted)?;
        }
        if self.others > 0 {
            write!(f, "\n({} more reports after this one", self.others)?;
            if let Some(last) = &self.last {
                write!(f, "; the last: {last}")?;
            }
            f.write_str(")")?;
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
    // A user's panic has nothing to do with an earlier report.
    let by_user = |at: usize| message(lines[at]).starts_with("sysrq: ");
    let panic = soon
        .take_while(|&at| !by_user(at) && matches!(begins(lines, at), None | Some(Ending::Panic)))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the time to each line, as the kernel does, and the line ends of a serial console.
    fn console(text: &str) -> String {
        let lines = text.lines().enumerate();
        lines
            .map(|(number, line)| format!("[   11.{number:06}] {line}\r\n"))
            .collect()
    }

    /// Returns the first and last line of the first report, without times, the number of its lines,
    /// and that of other reports.
    fn found(text: &str) -> Option<(String, String, usize, usize)> {
        let report = KernelReport::find(&console(text))?;
        let lines: Vec<_> = report.text.lines().map(message).collect();
        let [first, .., last] = lines[..] else {
            panic!("{report:?}");
        };
        let number = lines.len() + report.omitted;
        Some((first.to_owned(), last.to_owned(), number, report.others))
    }

    fn expected(
        first: &str,
        last: &str,
        lines: usize,
        others: usize,
    ) -> Option<(String, String, usize, usize)> {
        Some((first.to_owned(), last.to_owned(), lines, others))
    }

    const QUIET: &str = "\
Linux version 7.3.4+deb13-amd64
Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on
DMA-API: preallocated 65536 debug entries
EXT4-fs (vda): mounted filesystem
zcnic: loading out-of-tree module taints kernel.";

    const PANIC: &str = "\
sysrq: Trigger a crash
Kernel panic - not syncing: sysrq triggered crash
CPU: 2 UID: 0 PID: 221 Comm: bash Kdump: loaded
Call Trace:
 <TASK>
 vpanic+0x32b/0x340
 </TASK>";

    const OOPS: &str = "\
BUG: kernel NULL pointer dereference, address: 0000000000000008
#PF: supervisor write access in kernel mode
Oops: Oops: 0002 [#1] SMP NOPTI
CPU: 1 UID: 0 PID: 230 Comm: insmod
RIP: 0010:zcnic_init+0x1f/0x30 [zcnic]
Call Trace:
 <TASK>
 do_one_initcall+0x5b/0x300
 </TASK>
CR2: 0000000000000008
---[ end trace 0000000000000000 ]---
RIP: 0010:zcnic_init+0x1f/0x30 [zcnic]
Code: 0f 1e fa
RSP: 0018:ffffc900001c3c80 EFLAGS: 00010246
PKRU: 55555554";

    const KASAN: &str = "\
==================================================================
BUG: KASAN: slab-use-after-free in provoked+0x8c/0xe0 [zcnic]
Write of size 1 at addr ffff888102b3d7a8 by task insmod/199
CPU: 1 UID: 0 PID: 199 Comm: insmod
Call Trace:
 <TASK>
 dump_stack_lvl+0x53/0x70
 </TASK>

Allocated by task 199:
 kasan_save_stack+0x24/0x50
Memory state around the buggy address:
>ffff888102b3d780: fc fc fc fc fa fb fb fb fc fc fc fc fa fb fb fb
                                        ^
==================================================================
Disabling lock debugging due to kernel taint";

    const LOCKDEP: &str = "\
======================================================
WARNING: possible circular locking dependency detected
7.3.4 #1 Tainted: G           O
------------------------------------------------------
insmod/199 is trying to acquire lock:

the existing dependency chain (in reverse order) is:
-> #1 (pb){+.+.}-{4:4}:
       __mutex_lock+0x9a/0xb70
stack backtrace:
Call Trace:
 <TASK>
 dump_stack_lvl+0x53/0x70
 </TASK>";

    const HUNG: &str = "\
INFO: task hung:301 blocked for more than 5 seconds.
      Tainted: G           O        7.3.4+deb13-amd64 #1
\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.
task:hung            state:D stack:0     pid:301   ppid:2
Call Trace:
 <TASK>
 __schedule+0x4ab/0xb90
 </TASK>";

    const WARN: &str = "\
------------[ cut here ]------------
provoked
WARNING: zcnic_main.c:345 at provoked+0x5b/0x1d0 [zcnic], CPU#0: provoked/231
Call Trace:
 <TASK>
 kthread+0xf9/0x240
 </TASK>
---[ end trace 0000000000000000 ]---";

    #[test]
    fn a_console_without_a_bug_has_no_report() {
        assert_eq!(KernelReport::find(""), None);
        assert_eq!(KernelReport::find(&console(QUIET)), None);
    }

    #[test]
    fn each_kind_is_found_from_its_first_line_to_its_end() {
        let rule = "==================================================================";
        for (text, first, last, lines) in [
            (
                OOPS,
                "BUG: kernel NULL pointer dereference, address: 0000000000000008",
                "PKRU: 55555554",
                15,
            ),
            (KASAN, rule, rule, 15),
            (LOCKDEP, &rule[..54], " </TASK>", 14),
            (
                HUNG,
                "INFO: task hung:301 blocked for more than 5 seconds.",
                " </TASK>",
                8,
            ),
            (
                WARN,
                "------------[ cut here ]------------",
                "---[ end trace 0000000000000000 ]---",
                8,
            ),
        ] {
            let whole = format!("{QUIET}\n{text}\nsystemd: all is well\n{QUIET}");
            assert_eq!(found(&whole), expected(first, last, lines, 0), "{text}");
        }
    }

    #[test]
    fn a_panic_lasts_until_the_kernel_says_that_it_ends() {
        let panic = "Kernel panic - not syncing: sysrq triggered crash";
        let end = "---[ end Kernel panic - not syncing: sysrq triggered crash ]---";
        let offset = "Kernel Offset: 0x2f800000 from 0xffffffff81000000";
        let reboots = format!("{QUIET}\n{PANIC}\n{offset}");
        assert_eq!(found(&reboots), expected(panic, offset, 7, 0));
        let stays = format!("{QUIET}\n{PANIC}\n{offset}\n{end}\nlater");
        assert_eq!(found(&stays), expected(panic, end, 8, 0));
    }

    #[test]
    fn the_panic_after_an_oops_belongs_to_it() {
        let text = format!("{OOPS}\nnote: insmod[230] exited with irqs disabled\n{PANIC}");
        let text = text.replace("sysrq: Trigger a crash\n", "");
        assert_eq!(
            found(&text),
            expected(
                "BUG: kernel NULL pointer dereference, address: 0000000000000008",
                " </TASK>",
                22,
                0
            )
        );
        // panic_on_warn panics in the middle of the warning.
        let text = WARN.replace(
            "Call Trace:",
            "Kernel panic - not syncing: panic_on_warn set\nCall Trace:",
        );
        let text = text.replace("---[ end trace", "---[ end Kernel panic");
        assert_eq!(
            found(&text).map(|(_, _, lines, others)| (lines, others)),
            Some((9, 0))
        );
    }

    /// The console of a guest with Debian's kernel in which a module made mistakes, one after the
    /// other: a use after free (found by KFENCE), WARN, sleeping with a lock (two reports), a null
    /// pointer, a non-canonical address, BUG; and then a user made it panic.
    #[test]
    fn every_report_of_a_real_console_is_found() {
        let console = include_str!("../tests/consoles/kfence-warn-oops-panic.txt");
        let lines: Vec<_> = console.lines().collect();
        let mut found = Vec::new();
        let mut from = 0;
        while let Some((start, end)) = next(&lines, from) {
            found.push((message(lines[start]), message(lines[end - 1])));
            from = end;
        }
        let rule = "==================================================================";
        let cut = "------------[ cut here ]------------";
        let expected = [
            (rule, rule),
            (cut, "---[ end trace 0000000000000000 ]---"),
            (
                "BUG: scheduling while atomic: provoked/150/0x00000002",
                " </TASK>",
            ),
            (
                "BUG: scheduling while atomic: provoked/150/0x00000000",
                " </TASK>",
            ),
            (
                "BUG: kernel NULL pointer dereference, address: 0000000000000008",
                "PKRU: 55555554",
            ),
            (
                "Oops: general protection fault, probably for non-canonical address \
                 0xdead000000000108: 0000 [#2] SMP NOPTI",
                "PKRU: 55555554",
            ),
            (cut, "PKRU: 55555554"),
            (
                "Kernel panic - not syncing: sysrq triggered crash",
                message(lines[lines.len() - 1]),
            ),
        ];
        assert_eq!(found, expected);
        let report = KernelReport::find(console).unwrap();
        assert_eq!((report.omitted, report.others), (0, 7));
        let last = "Kernel panic - not syncing: sysrq triggered crash";
        assert_eq!(report.last.as_deref(), Some(last));
        assert!(
            report
                .text
                .contains("BUG: KFENCE: use-after-free write in provoked+0x2c7/0x2e0")
        );
    }

    #[test]
    fn further_reports_are_counted() {
        let text = [WARN, HUNG, QUIET, KASAN, LOCKDEP, HUNG, HUNG].join("\n");
        let report = KernelReport::find(&console(&text)).unwrap();
        assert_eq!(report.others, 5);
        let last = "\n(5 more reports after this one; the last: INFO: task hung:301 blocked for \
                    more than 5 seconds.)";
        assert!(report.to_string().ends_with(last), "{report}");
        // One without an end does not swallow the next.
        let open = WARN.rsplit_once('\n').unwrap().0;
        let found = found(&format!("{open}\n{KASAN}")).unwrap();
        assert_eq!((found.2, found.3), (7, 1));
    }

    #[test]
    fn a_long_report_is_cut() {
        let chain = "       lock_acquire+0x9a/0xb70\n".repeat(300);
        let text = LOCKDEP.replace("stack backtrace:", &format!("{chain}stack backtrace:"));
        let report = KernelReport::find(&console(&text)).unwrap();
        assert_eq!(report.text.lines().count(), MOST_LINES);
        assert_eq!(report.omitted, 14 + 300 - MOST_LINES);
        assert!(
            report
                .to_string()
                .contains("(114 more lines of this report)")
        );
    }

    #[test]
    fn lines_may_have_the_thread_or_no_time() {
        assert_eq!(message("[   11.345678][  T123] BUG: x"), "BUG: x");
        assert_eq!(message("[   11.345678][    C0]  <IRQ>"), " <IRQ>");
        assert_eq!(message("[    0.000000] [ BUG: x ]"), "[ BUG: x ]");
        assert_eq!(message("BUG: x"), "BUG: x");
        assert_eq!(message("[drm] x"), "[drm] x");
        assert!(KernelReport::find("BUG: kernel NULL pointer dereference\r\n").is_some());
    }
}
