//! The files of the workspace, for the tests that read them all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pulldown_cmark::Options;

/// The extensions of CommonMark that GitHub renders.
pub(crate) const DIALECT: Options = Options::ENABLE_TABLES.union(Options::ENABLE_FOOTNOTES);

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap()
}

/// All files with one of these extensions, their paths relative to the root, in order.
pub(crate) fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root().to_owned()];
    while let Some(directory) = pending.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                let hidden = name.starts_with('.') && name != ".github";
                if !hidden && name != "target" {
                    pending.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|own| extensions.iter().any(|wanted| own == *wanted))
            {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no files with {extensions:?}");
    found
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Fails with all `problems`, one a line.
pub(crate) fn none_of(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
