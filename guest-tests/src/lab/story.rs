//! What a case tells while it runs: what it does, what it sees, and why that is so. Whatever it sees it
//! also judges, so that a transcript with a wrong value in it is a failure.

use std::{fmt::Display, ops::RangeInclusive};

use anyhow::{Result, anyhow, ensure};
use zcnic_guest_protocol::event::Event;

use crate::{
    net,
    progress::report,
    zcrx::{Completion, Error, sys},
};

/// A case's own words.
#[derive(Debug)]
pub(crate) struct Story {
    /// Lines are objects, for a program.
    json: bool,
}

impl Story {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    fn line(&self, text: &str) {
        if self.json {
            report(&Event::Line {
                text: text.to_owned(),
            });
        } else {
            println!("{text}");
        }
    }

    /// What it is about.
    pub(crate) fn title(&self, text: &str) {
        self.line(text);
    }

    /// What is done now.
    pub(crate) fn does(&self, text: &str) {
        self.line(&format!("* {text}"));
    }

    /// Why the kernel answers so, and where it does.
    pub(crate) fn why(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// What is seen, whatever it is.
    pub(crate) fn sees(&self, what: &str, value: impl Display) {
        self.line(&format!("      {what}: {value}"));
    }

    /// What must be seen.
    pub(crate) fn is<T: Copy + Display + PartialEq>(
        &self,
        what: &str,
        seen: T,
        wanted: T,
    ) -> Result<()> {
        self.sees(what, seen);
        ensure!(seen == wanted, "{what}: {seen}, not {wanted}");
        Ok(())
    }

    /// What must be so.
    pub(crate) fn holds(&self, what: &str, is_so: bool) -> Result<()> {
        ensure!(is_so, "this is not so: {what}");
        self.line(&format!("      {what}"));
        Ok(())
    }

    /// What must be seen, within limits.
    pub(crate) fn within(&self, what: &str, seen: u64, limits: RangeInclusive<u64>) -> Result<()> {
        self.sees(what, seen);
        let (least, most) = (limits.start(), limits.end());
        ensure!(
            limits.contains(&seen),
            "{what}: {seen}, not {least} to {most}"
        );
        Ok(())
    }

    /// What must be seen so often or more.
    pub(crate) fn at_least(&self, what: &str, seen: u64, least: u64) -> Result<()> {
        self.sees(what, seen);
        ensure!(seen >= least, "{what}: {seen}, less than {least}");
        Ok(())
    }

    /// A program that must be refused with these words.
    pub(crate) fn refused<T>(
        &self,
        what: &str,
        result: Result<T, net::Error>,
        words: &str,
    ) -> Result<()> {
        let said = match result {
            Err(net::Error::Failed { message, .. }) => message,
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(anyhow!("{what} was not refused")),
        };
        self.sees(what, &said);
        ensure!(said.contains(words), "{what}: {said:?}, not {words:?}");
        Ok(())
    }

    /// A request of a program's that the kernel must refuse so.
    pub(crate) fn fails<T>(&self, what: &str, result: Result<T, Error>, errno: i32) -> Result<()> {
        let Err(error) = result else {
            return Err(anyhow!("{what} did not fail"));
        };
        let said = error.errno().map_or_else(|| error.to_string(), errno_name);
        self.sees(what, &said);
        ensure!(
            error.errno() == Some(errno),
            "{what}: {said}, not {}",
            errno_name(errno)
        );
        Ok(())
    }

    /// A completion that tells of no data.
    pub(crate) fn completion(
        &self,
        what: &str,
        seen: Option<&Completion>,
        wanted: i32,
    ) -> Result<()> {
        let seen = seen.ok_or_else(|| anyhow!("{what} did not come"))?;
        let result = match seen.result {
            result if result < 0 => format!("-{}", errno_name(-result)),
            result => result.to_string(),
        };
        self.sees(what, format!("res {result}, flags {:#x}", seen.flags));
        ensure!(
            (seen.result, seen.flags) == (wanted, 0),
            "{what}: {seen:?}, not {wanted} without flags"
        );
        Ok(())
    }

    /// A notification of the kernel's.
    pub(crate) fn notification(&self, seen: Option<&Completion>, event: u32) -> Result<()> {
        let name = match event {
            sys::EVENT_ALLOC_FAIL => "notification ZCRX_EVENT_ALLOC_FAIL",
            sys::EVENT_COPY => "notification ZCRX_EVENT_COPY",
            _ => "notification",
        };
        self.completion(name, seen, event.cast_signed())
    }
}

/// As the manuals name it.
fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EFAULT => "EFAULT",
        libc::EEXIST => "EEXIST",
        libc::EINVAL => "EINVAL",
        libc::ENOMEM => "ENOMEM",
        libc::ENOSPC => "ENOSPC",
        _ => return errno.to_string(),
    };
    name.to_owned()
}
