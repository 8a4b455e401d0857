//! Imports run downwards: what `layers.toml` declares of each crate holds of its source.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::source::{Names, Source};

/// `layers.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declaration {
    #[serde(rename = "crate")]
    crates: Vec<CrateLayers>,
}

/// The layers of one crate, from the lowest to the highest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrateLayers {
    /// The root file, relative to the workspace.
    root: PathBuf,
    /// Each layer has modules that don't import each other. A module stands for all that are in it.
    layers: Vec<Vec<String>>,
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is in the workspace")
}

fn declared() -> Vec<CrateLayers> {
    let declaration: Declaration =
        toml::from_str(include_str!("layers.toml")).expect("layers.toml is well-formed");
    declaration.crates
}

#[test]
fn imports_run_downwards() {
    let mut faults = Vec::new();
    for krate in declared() {
        let source = Source::read(&workspace().join(&krate.root));
        faults.extend(check(&krate.layers, &source));
    }
    let prefix = format!("{}/", workspace().display());
    assert!(
        faults.is_empty(),
        "\n{}",
        faults.join("\n").replace(&prefix, "")
    );
}

/// Every Rust source directory of the workspace has its layers declared.
#[test]
fn every_crate_is_declared() {
    let declared = declared();
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("a well-formed manifest");
    let members = manifest["workspace"]["members"]
        .as_array()
        .expect("members");
    for member in members.iter().filter_map(|member| member.as_str()) {
        let source = Path::new(member).join("src");
        assert!(
            declared.iter().any(|krate| krate.root.starts_with(&source)),
            "layers.toml does not name the crate in {member}"
        );
    }
}

/// One line for each module that no layer names, each import that does not run downwards, and each circle of files.
fn check(layers: &[Vec<String>], source: &Source) -> Vec<String> {
    let mut places = BTreeMap::new();
    for (level, layer) in layers.iter().enumerate() {
        for name in layer {
            let names: Names = name.split("::").map(str::to_owned).collect();
            places.insert(names, level);
        }
    }
    // The innermost module of a layer that `names` is in.
    let place = |names: &Names| {
        (1..=names.len()).rev().find_map(|length| {
            let (room, level) = places.get_key_value(&names[..length])?;
            Some((room, *level))
        })
    };
    let mut faults = Vec::new();
    let modules: BTreeSet<_> = source.modules().collect();
    for room in places.keys().filter(|room| !modules.contains(*room)) {
        faults.push(format!(
            "layers.toml names {}, which does not exist",
            room.join("::")
        ));
    }
    for names in modules
        .iter()
        .filter(|names| !names.is_empty() && place(names).is_none())
    {
        faults.push(format!(
            "layers.toml does not say on which layer {} is",
            names.join("::")
        ));
    }
    for import in source.imports() {
        let (Some((from, level)), Some((to, target))) = (place(&import.from), place(&import.to))
        else {
            if import.to.is_empty() {
                faults.push(format!(
                    "{} imports from the crate's root",
                    import.files[0].display()
                ));
            }
            continue;
        };
        if from != to && target >= level {
            let relation = if target > level {
                "above it"
            } else {
                "beside it"
            };
            faults.push(format!(
                "{}: {} imports {}, which is {relation}",
                import.files[0].display(),
                import.from.join("::"),
                import.to.join("::"),
            ));
        }
    }
    // An upward import closes circles, too, which say no more than it does.
    if faults.is_empty() {
        faults.extend(circle(source));
    }
    faults
}

/// The imports that remain when those are taken away, again and again, of files that import or are imported by no
/// remaining one. What a module imports from one that it is in does not count: together they are one module, split
/// over several files.
fn circle(source: &Source) -> Option<String> {
    let mut edges: BTreeSet<[&Path; 2]> = source
        .imports()
        .filter(|import| !import.from.starts_with(&import.to))
        .map(|import| [import.files[0].as_path(), import.files[1].as_path()])
        .collect();
    loop {
        let (from, to): (BTreeSet<_>, BTreeSet<_>) =
            edges.iter().map(|[from, to]| (*from, *to)).unzip();
        let before = edges.len();
        edges.retain(|[source, target]| from.contains(target) && to.contains(source));
        if edges.is_empty() {
            return None;
        }
        if edges.len() == before {
            let arrows = edges
                .iter()
                .map(|[from, to]| format!("  {} imports {}", from.display(), to.display()));
            return Some(format!(
                "files import each other in a circle:\n{}",
                arrows.collect::<Vec<_>>().join("\n")
            ));
        }
    }
}

/// What `check` says of a crate with the given files.
fn faults_of(layers: &[&[&str]], files: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    let source = Source::read(&directory.path().join("lib.rs"));
    let layers: Vec<Vec<String>> = layers
        .iter()
        .map(|layer| layer.iter().map(ToString::to_string).collect())
        .collect();
    let prefix = format!("{}/", directory.path().display());
    check(&layers, &source)
        .into_iter()
        .map(|fault| fault.replace(&prefix, ""))
        .collect()
}

#[test]
fn an_upward_import_is_a_fault() {
    let layers: &[&[&str]] = &[&["ring"], &["port", "server"]];
    for import in [
        "use crate::port::Port;",
        "fn f(port: &crate::port::Port) {}",
        "use super::port;",
        r#"fn f() { println!("{}", crate::port::Port::NAME); }"#,
    ] {
        let files = [
            ("lib.rs", "mod port; mod ring; mod server;"),
            ("port.rs", "pub struct Port; use crate::ring;"),
            ("ring.rs", import),
            ("server.rs", ""),
        ];
        assert_eq!(
            faults_of(layers, &files),
            ["ring.rs: ring imports port, which is above it"],
            "{import}"
        );
    }
}

#[test]
fn an_import_sideways_is_a_fault_and_a_downward_one_is_none() {
    let files = [
        ("lib.rs", "mod port; mod ring; mod server;"),
        ("port.rs", "use crate::ring::Ring;"),
        ("ring.rs", "pub struct Ring;"),
        ("server.rs", "use crate::{port::Port, ring::Ring};"),
    ];
    let beside: &[&[&str]] = &[&["ring"], &["port", "server"]];
    assert_eq!(
        faults_of(beside, &files),
        ["server.rs: server imports port, which is beside it"]
    );
    let above: &[&[&str]] = &[&["ring"], &["port"], &["server"]];
    assert_eq!(faults_of(above, &files), [""; 0]);
}

#[test]
fn tests_may_import_everything() {
    let files = [
        ("lib.rs", "mod port; mod ring;"),
        ("port.rs", "use crate::ring;"),
        (
            "ring.rs",
            "#[cfg(test)] mod tests { use crate::port::Port; } #[cfg(test)] use crate::port;",
        ),
    ];
    assert_eq!(faults_of(&[&["ring"], &["port"]], &files), [""; 0]);
}

#[test]
fn an_import_through_a_re_export_is_one_of_the_file_that_defines_the_item() {
    let layers: &[&[&str]] = &[&["ring"], &["port"]];
    let mut files = [
        ("lib.rs", "mod port; mod ring;"),
        ("port.rs", "use crate::ring::Split;"),
        (
            "ring/mod.rs",
            "mod chain; mod split; pub(crate) use self::{chain::Chain, split::Split}; const RING: u16 = 1; const C: &str = chain::C;",
        ),
        (
            "ring/chain.rs",
            "use super::{RING, Split}; pub struct Chain;",
        ),
        ("ring/split.rs", "pub struct Split;"),
    ];
    assert_eq!(faults_of(layers, &files), [""; 0]);
    files[4].1 = "use super::Chain; pub struct Split;";
    assert_eq!(
        faults_of(layers, &files),
        ["files import each other in a circle:\n  \
          ring/chain.rs imports ring/split.rs\n  \
          ring/split.rs imports ring/chain.rs"]
    );
}

#[test]
fn every_module_has_a_layer_and_every_layer_exists() {
    let files = [("lib.rs", "mod port;"), ("port.rs", "")];
    assert_eq!(
        faults_of(&[&["ring"]], &files),
        [
            "layers.toml names ring, which does not exist",
            "layers.toml does not say on which layer port is",
        ]
    );
}
