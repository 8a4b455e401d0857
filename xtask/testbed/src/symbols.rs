//! Source lines for the addresses in a kernel's report, from the tree that the kernel was built in.
//!
//! A report has `symbol+0x12/0x34 [module]`. `nm` gives the symbol's address in `vmlinux` or in the
//! module, and one call of `addr2line` for each file the lines. That takes seconds where the tree's
//! `scripts/decode_stacktrace.sh` starts `addr2line` for every line of the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    provision::{
        host,
        linux::kernel::{Headers, Kernel},
    },
    step::run,
};

/// The files with a kernel's debug information.
#[derive(Clone, Debug)]
pub struct Symbols {
    vmlinux: PathBuf,
    /// zcnic.ko.
    driver: Option<PathBuf>,
}

/// An address of a report: `name+offset/length [module]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    module: Option<String>,
    name: String,
    offset: u64,
    length: u64,
    /// Behind a call, whose line is the one of the byte before.
    returns: bool,
}

/// A symbol of an object file.
#[derive(Debug)]
struct Symbol {
    name: String,
    section: String,
    address: u64,
}

impl Symbols {
    /// Returns those of `kernel`; None if no tree of it is known. `driver` is its zcnic.ko.
    pub fn of(kernel: &Kernel, driver: Option<PathBuf>) -> Option<Self> {
        let tree = match &kernel.headers {
            Headers::Tree(tree) => tree.output(),
            Headers::Own(tree) => tree,
            Headers::Debian(_) | Headers::Unknown => return None,
        };
        let vmlinux = tree.join("vmlinux");
        vmlinux.exists().then_some(Self { vmlinux, driver })
    }

    /// Returns the path of the tree's vmlinux.
    pub fn vmlinux(&self) -> &Path {
        &self.vmlinux
    }

    /// Adds source lines to `report`, or a last line that says why there are none.
    pub fn decode(&self, report: &str) -> String {
        match self.try_decode(report) {
            Ok(decoded) => decoded,
            Err(error) => format!("{report}\n(without source lines: {error:#})"),
        }
    }

    fn try_decode(&self, report: &str) -> Result<String> {
        let places: BTreeSet<Place> = report.lines().flat_map(places).collect();
        let in_kernel = of_module(&places, None);
        let mut lines = decode(&self.vmlinux, &in_kernel)?;
        if !in_kernel.is_empty() && lines.is_empty() {
            bail!(
                "{} has no debug information, which CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT adds",
                self.vmlinux.display()
            );
        }
        if let Some(driver) = &self.driver {
            lines.extend(decode(driver, &of_module(&places, Some("zcnic")))?);
        }
        let tree = self.vmlinux.parent().unwrap_or(Path::new("/"));
        Ok(annotate(report, &lines, &prefixes(tree)))
    }
}

/// The directories that names of source files begin with: the tree, and the source of a tree that
/// was built elsewhere (its `source` link). [`Tree`](crate::provision::linux::tree::Tree) compiles
/// at a path of its own.
fn prefixes(tree: &Path) -> Vec<String> {
    let linked = fs::canonicalize(tree.join("source")).ok();
    let mut prefixes: Vec<_> = [Some(tree.to_owned()), linked, Some("/mnt/source".into())]
        .into_iter()
        .flatten()
        .map(|path: PathBuf| format!("{}/", path.display()))
        .collect();
    prefixes.push("./".to_owned());
    prefixes
}

fn of_module<'a>(places: &'a BTreeSet<Place>, module: Option<&str>) -> Vec<&'a Place> {
    places
        .iter()
        .filter(|place| place.module.as_deref() == module)
        .collect()
}

/// Returns the places in a line of a report.
fn places(line: &str) -> Vec<Place> {
    let mut found = Vec::new();
    let words: Vec<_> = line.split([' ', '(', ')', ',']).collect();
    // The instruction pointer is of the instruction itself.
    let returns = !line.contains("RIP:");
    for (at, word) in words.iter().enumerate() {
        let module = words.get(at + 1).and_then(|next| {
            let inside = next.strip_prefix('[')?.strip_suffix(']')?;
            (!inside.is_empty()).then(|| inside.to_owned())
        });
        // "RIP: 0010:name+0x1/0x2"
        let word = word.rsplit(':').next().unwrap_or(word);
        if let Some((name, numbers)) = word.split_once("+0x")
            && let Some((offset, length)) = numbers.split_once("/0x")
            && let Ok(offset) = u64::from_str_radix(offset, 16)
            && let Ok(length) = u64::from_str_radix(length, 16)
            && !name.is_empty()
        {
            found.push(Place {
                module,
                name: name.to_owned(),
                offset,
                length,
                returns,
            });
        }
    }
    found
}

/// Returns file and line of each place in `object` whose symbol is known; of inlined code the
/// innermost line first.
fn decode(object: &Path, places: &[&Place]) -> Result<BTreeMap<Place, Vec<String>>> {
    if places.is_empty() {
        return Ok(BTreeMap::new());
    }
    // Columns: name, value, class, type, size, line, section.
    let table = run(host::command("nm")
        .args(["-f", "sysv", "--defined-only"])
        .arg(object))?;
    let mut symbols: Vec<Symbol> = table.lines().filter_map(symbol).collect();
    symbols.sort_by(|a, b| (&a.section, a.address).cmp(&(&b.section, b.address)));
    let mut by_section: BTreeMap<&str, Vec<(&Place, u64)>> = BTreeMap::new();
    for place in places {
        if let Some(symbol) = find(&symbols, place) {
            // The guest wrote the offset.
            let address = symbol.address.wrapping_add(place.offset);
            let call = u64::from(place.returns && place.offset > 0);
            let address = address.wrapping_sub(call);
            by_section
                .entry(&symbol.section)
                .or_default()
                .push((*place, address));
        }
    }
    let mut decoded = BTreeMap::new();
    for (section, wanted) in by_section {
        let mut command = host::command("addr2line");
        command.args(["-a", "-i", "-e"]).arg(object);
        // Only a module's addresses count from its sections.
        if object
            .extension()
            .is_some_and(|extension| extension == "ko")
        {
            command.args(["-j", section]);
        }
        command.args(wanted.iter().map(|(_, address)| format!("{address:#x}")));
        let answer = run(&mut command)?;
        let mut answers: Vec<Vec<String>> = Vec::new();
        for line in answer.lines() {
            if line.starts_with("0x") {
                answers.push(Vec::new());
            } else if !line.starts_with("??") && !line.ends_with(":?") {
                let line = line.split(" (discriminator").next().unwrap_or(line);
                let last = answers
                    .last_mut()
                    .context("addr2line begins with no address")?;
                last.push(line.to_owned());
            }
        }
        let known = wanted
            .iter()
            .zip(answers)
            .filter(|(_, lines)| !lines.is_empty());
        decoded.extend(known.map(|((place, _), lines)| ((*place).clone(), lines)));
    }
    Ok(decoded)
}

fn symbol(line: &str) -> Option<Symbol> {
    let columns: Vec<_> = line.split('|').map(str::trim).collect();
    let [name, value, _, _, _, _, section] = columns[..] else {
        return None;
    };
    Some(Symbol {
        name: name.to_owned(),
        section: section.to_owned(),
        address: u64::from_str_radix(value, 16).ok()?,
    })
}

/// Returns the symbol of a place. Static functions may share a name: the kernel's length, up to the
/// next symbol, tells them apart.
fn find<'a>(symbols: &'a [Symbol], place: &Place) -> Option<&'a Symbol> {
    let named: Vec<_> = (0..symbols.len())
        .filter(|&at| symbols[at].name == place.name)
        .collect();
    let fits = |at: usize| {
        let own = &symbols[at];
        let next = symbols[at..]
            .iter()
            .find(|symbol| symbol.address > own.address);
        next.is_some_and(|next| next.address - own.address == place.length)
    };
    match named[..] {
        [only] => Some(&symbols[only]),
        _ => named
            .into_iter()
            .find(|&at| fits(at))
            .map(|at| &symbols[at]),
    }
}

/// Adds the source lines behind each place, without the first of `prefixes` that a file has.
fn annotate(report: &str, lines: &BTreeMap<Place, Vec<String>>, prefixes: &[String]) -> String {
    let short = |file: &String| {
        let strip = |prefix: &String| file.strip_prefix(prefix.as_str());
        prefixes.iter().find_map(strip).unwrap_or(file).to_owned()
    };
    let annotated = report.lines().map(|line| {
        let found: Vec<_> = places(line)
            .iter()
            .filter_map(|place| lines.get(place))
            .collect();
        let found: Vec<_> = found
            .iter()
            .map(|files| {
                files
                    .iter()
                    .map(short)
                    .collect::<Vec<_>>()
                    .join(", inlined at ")
            })
            .collect();
        if found.is_empty() {
            line.to_owned()
        } else {
            format!("{line} ({})", found.join("; "))
        }
    });
    annotated.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn addresses_of_a_report_are_found() {
        let place = |module: Option<&str>, name: &str, offset, length, returns| Place {
            module: module.map(str::to_owned),
            name: name.to_owned(),
            offset,
            length,
            returns,
        };
        assert_eq!(
            places("[   11.3] RIP: 0010:zcnic_rx_poll+0x1f/0x30 [zcnic]"),
            [place(Some("zcnic"), "zcnic_rx_poll", 0x1f, 0x30, false)]
        );
        assert_eq!(
            places("[   11.3]  ? panic+0x32b/0x340"),
            [place(None, "panic", 0x32b, 0x340, true)]
        );
        assert_eq!(
            places("[   11.3] BUG: KASAN: use-after-free in f.cold+0x1/0x2 (drivers/x)"),
            [place(None, "f.cold", 1, 2, true)]
        );
        assert_eq!(places("Code: 00 <0f> 0b +0x /0x RIP: 0033:0x7f5c"), []);
    }

    /// A program of the host's compiler stands for vmlinux.
    #[test]
    fn a_report_gets_the_source_lines_of_its_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("bug.c");
        fs::write(
            &source,
            "int deep(int x)\n{\n\treturn x + 1;\n}\nint main(int c, char **v)\n{\n\treturn deep(c);\n}\n",
        )
        .unwrap();
        let vmlinux = directory.path().join("vmlinux");
        let compile = |options: &[&str]| {
            let mut cc = Command::new("cc");
            run(cc.args(options).arg(&source).arg("-o").arg(&vmlinux)).unwrap();
        };
        compile(&["-g", "-O0"]);
        let symbols = Symbols {
            vmlinux: vmlinux.clone(),
            driver: None,
        };
        let report = "[1.0] RIP: 0010:deep+0x4/0xf\n[1.0]  main+0x1/0x20\n[1.0]  other+0x1/0x2\n\
                      deep+0xffffffffffffffff/0xf";
        let decoded = symbols.decode(report);
        let lines: Vec<_> = decoded.lines().collect();
        assert_eq!(
            lines[0], "[1.0] RIP: 0010:deep+0x4/0xf (bug.c:2)",
            "{decoded}"
        );
        assert_eq!(lines[1], "[1.0]  main+0x1/0x20 (bug.c:6)", "{decoded}");
        assert_eq!(lines[2], "[1.0]  other+0x1/0x2");

        compile(&["-g0"]);
        let decoded = symbols.decode(report);
        assert!(decoded.starts_with(report), "{decoded}");
        assert!(decoded.contains("has no debug information"), "{decoded}");
    }
}
