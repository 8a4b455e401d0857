//! The crates of others that the programs contain, with their licences.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use zcnic_testbed::{paths, step::run};

/// What `cargo metadata` prints.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: String,
    /// Where it comes from; crates of the workspace have none.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None for an ordinary dependency.
    kind: Option<String>,
}

/// Returns a list of the crates, and behind it each licence's text once.
pub(super) fn notice() -> Result<String> {
    let mut cargo = paths::cargo();
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Metadata = serde_json::from_str(&run(&mut cargo)?)?;
    let linked = metadata.linked();
    let mut packages: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_some() && linked.contains(package.id.as_str()))
        .collect();
    packages.sort_by_key(|package| (&package.name, &package.version));

    let mut text = "Crates in zcnic's programs, and their licences\n\n".to_owned();
    let mut licences: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let Package { name, version, .. } = package;
        let license = package.license.as_deref().unwrap_or("see below");
        text += &format!("{name} {version}: {license}\n");
        for licence in texts(Path::new(&package.manifest_path))? {
            let users = licences.entry(licence).or_default();
            users.push(format!("{name} {version}"));
        }
    }
    for (licence, users) in licences {
        let line = "-".repeat(80);
        text += &format!("\n{line}\n{}\n{line}\n\n{licence}\n", users.join(", "));
    }
    Ok(text)
}

impl Metadata {
    /// The ids of the workspace's crates and of all that they link with.
    fn linked(&self) -> BTreeSet<&str> {
        let nodes = self.resolve.nodes.iter();
        let nodes: BTreeMap<_, _> = nodes.map(|node| (node.id.as_str(), node)).collect();
        let mut pending: Vec<_> = self.workspace_members.iter().map(String::as_str).collect();
        let mut linked = BTreeSet::new();
        while let Some(id) = pending.pop() {
            if !linked.insert(id) {
                continue;
            }
            let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            let ordinary =
                dependencies.filter(|it| it.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            pending.extend(ordinary.map(|dependency| dependency.pkg.as_str()));
        }
        linked
    }
}

/// The licences and notices beside a manifest.
fn texts(manifest: &Path) -> Result<Vec<String>> {
    let directory = manifest.parent().context("a manifest is in a directory")?;
    let mut texts = Vec::new();
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_uppercase();
        let starts = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];
        if path.is_file() && starts.iter().any(|start| name.starts_with(start)) {
            texts.push(String::from_utf8_lossy(&fs::read(&path)?).trim().to_owned());
        }
    }
    Ok(texts)
}
