//! The options of a guest's machine, which every command that boots guests has.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{diagnosis::artifacts_directory, machine::Machine};

/// Least and most memory of a guest, in MiB. Debian's kernel and its initrd need half of the least.
const MEMORY: std::ops::RangeInclusive<u64> = 512..=1 << 20;

/// The options of a machine: QEMU, processors, memory, the kernel's command line, logs.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct MachineArgs {
    /// Run this QEMU (10.0 or newer, with vhost-user)
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Processors of the guest [default: 4]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: Option<u32>,
    /// Memory of the guest, such as 512M or 4G [default: 2G]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Memory>,
    /// Add these words to the kernel's command line; may be repeated
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, value_parser = one_line)]
    pub append: Vec<String>,
    /// Add this argument to QEMU's command line; repeat it for each word, as in
    /// `--qemu-arg=-device --qemu-arg=edu`
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub qemu_arg: Vec<String>,
    /// Write console, logs, command lines and the kernel's report of every guest to DIR/guest-N;
    /// without it only those of failed guests are kept, below ~/.local/state/zcnic/runs
    #[arg(long, value_name = "DIR", value_parser = artifacts_directory)]
    pub artifacts: Option<PathBuf>,
}

impl MachineArgs {
    /// Changes `machine` as the options ask for.
    pub fn apply(&self, machine: &mut Machine) {
        if let Some(cpus) = self.cpus {
            machine.processors = cpus;
        }
        if let Some(Memory(mebibytes)) = self.memory {
            machine.memory = mebibytes;
        }
        machine.user_words.extend(self.append.iter().cloned());
        machine.qemu_arguments.extend(self.qemu_arg.iter().cloned());
    }

    /// Returns the options as words of a command line, but for the place of logs.
    pub fn words(&self) -> Vec<String> {
        let Self {
            qemu,
            cpus,
            memory,
            append,
            qemu_arg,
            artifacts: _,
        } = self;
        let mut words = Vec::new();
        let mut add = |option: &str, values: &mut dyn Iterator<Item = String>| {
            words.extend(values.map(|value| format!("--{option}={value}")));
        };
        add(
            "qemu",
            &mut qemu.iter().map(|path| path.display().to_string()),
        );
        add("cpus", &mut cpus.iter().map(u32::to_string));
        add("memory", &mut memory.iter().map(Memory::to_string));
        add("append", &mut append.iter().cloned());
        add("qemu-arg", &mut qemu_arg.iter().cloned());
        words
    }
}

/// A size of memory, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = match text.strip_suffix(['M', 'm']) {
            Some(number) => (number, 1),
            None => match text.strip_suffix(['G', 'g']) {
                Some(number) => (number, 1 << 10),
                None => (text, 1),
            },
        };
        let number: u64 = number
            .parse()
            .map_err(|_| "a number of MiB or a size such as 512M or 4G is wanted".to_owned())?;
        match number.checked_mul(unit) {
            Some(size) if MEMORY.contains(&size) => Ok(Self(size)),
            _ => Err(format!(
                "a guest has {} MiB to {} GiB",
                MEMORY.start(),
                MEMORY.end() >> 10
            )),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0)
    }
}

fn one_line(text: &str) -> Result<String, &'static str> {
    if text.contains(['\n', '\0']) {
        return Err("a kernel's command line is one line");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        machine: MachineArgs,
    }

    fn parsed(words: &[&str]) -> Result<MachineArgs, clap::Error> {
        Ok(Cli::try_parse_from([&["x"], words].concat())?.machine)
    }

    #[test]
    fn sizes_of_memory() {
        assert_eq!("512M".parse(), Ok(Memory(512)));
        assert_eq!("4G".parse(), Ok(Memory(4096)));
        assert_eq!("3000".parse(), Ok(Memory(3000)));
        for wrong in [
            "lots",
            "",
            "G",
            "4T",
            "-1",
            "1.5G",
            "511M",
            "0",
            "9999999999999999G",
        ] {
            assert!(wrong.parse::<Memory>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_that_makes_no_machine_is_refused() {
        for words in [
            &["--cpus", "0"][..],
            &["--cpus", "many"],
            &["--memory", "lots"],
            &["--append", "a\nb"],
            &["--artifacts", "/proc/nowhere"],
        ] {
            parsed(words).unwrap_err();
        }
    }

    #[test]
    fn options_survive_being_written_as_words() {
        let words = [
            "--cpus=2",
            "--memory=1024M",
            "--append=-x y",
            "--qemu-arg=-s",
        ];
        let machine = parsed(&words).unwrap();
        assert_eq!(machine.words(), words);
        assert_eq!(parsed(&[]).unwrap().words(), [""; 0]);
    }
}
