//! The commands that every program of zcnic has: `man` and `completions`.

#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap_complete::Shell;

/// Prints what other programs know about this one.
#[derive(Debug, clap::Subcommand)]
pub enum Describe {
    /// Print the manual page, or write one of each command to a directory
    Man {
        /// Write all pages here
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Print a completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Describe {
    /// Prints or writes it for `program`.
    ///
    /// # Errors
    ///
    /// Files or standard output that can't be written.
    pub fn run(&self, program: clap::Command) -> io::Result<()> {
        match self {
            Self::Man {
                directory: Some(directory),
            } => pages(program, directory),
            Self::Man { directory: None } => {
                clap_mangen::Man::new(program.disable_help_subcommand(true))
                    .render(&mut io::stdout())
            }
            Self::Completions { shell } => {
                let name = program.get_name().to_owned();
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut { program }, name, &mut script);
                io::stdout().write_all(&script)
            }
        }
    }
}

/// Writes the pages of `program` and of all commands below it: `program-command.1`.
fn pages(program: clap::Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(program, directory)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    #[command(name = "prog", version = "1", subcommand_required = true)]
    struct Prog {
        #[command(subcommand)]
        describe: Describe,
    }

    #[test]
    fn every_command_that_a_page_refers_to_has_a_page() {
        let deep = Command::new("add").subcommand(Command::new("here"));
        let program = Prog::command().subcommand(Command::new("rule").subcommand(deep));
        let directory = tempfile::tempdir().expect("a directory");
        pages(program, directory.path()).expect("pages");

        let listed = fs::read_dir(directory.path()).expect("a listing");
        let pages: Vec<_> = listed.map(|item| item.expect("an item").path()).collect();
        let names: BTreeSet<_> = pages
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .map(|name| name.trim_end_matches(".1").to_owned())
            .collect();
        let mut referred = BTreeSet::from(["prog".to_owned()]);
        for page in &pages {
            let text = fs::read_to_string(page).expect("a page").replace('\\', "");
            referred.extend(
                text.lines()
                    .filter_map(|line| line.strip_suffix("(1)"))
                    .map(str::to_owned),
            );
        }
        assert_eq!(referred, names);
        assert!(names.contains("prog-rule-add-here"), "{names:?}");
    }

    #[test]
    fn the_command_line_of_the_commands_is_sound() {
        Prog::command().debug_assert();
    }
}
