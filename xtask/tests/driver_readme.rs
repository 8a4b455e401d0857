//! The driver's README names every counter that the driver has, and every file in debugfs.

use std::{collections::BTreeSet, fs, path::Path};

const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/driver");

fn read(name: &str) -> String {
    let path = Path::new(DRIVER).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between `before` and the next `after` in a line, for each line that has both.
fn between<'a>(source: &'a str, before: &str, after: &str) -> impl Iterator<Item = &'a str> {
    source.lines().filter_map(move |line| {
        let (_, rest) = line.split_once(before)?;
        rest.split_once(after).map(|(name, _)| name)
    })
}

/// The strings of `ethtool -S`, with N for the number of a pair.
fn ethtool_names(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (group, pair) in [
        ("\tPORT_STAT(", "device_"),
        ("\tQUEUE_STAT(", "qN_device_"),
        ("\tDRIVER_STAT(", "qN_rx_"),
    ] {
        let of_group: Vec<_> = between(source, group, "),").collect();
        assert!(!of_group.is_empty(), "no {} in zcnic_stats.c", group.trim());
        names.extend(of_group.iter().map(|name| format!("{pair}{name}")));
    }
    for call in ["ethtool_puts(&data, \"", "ethtool_sprintf(&data, \""] {
        names.extend(between(source, call, "\"").map(|name| name.replace("q%u_", "qN_")));
    }
    // The prefix of the others.
    names.remove("qN_%s");
    names
}

/// The names of the netdev family's queue statistics that a function fills in.
fn queue_statistics(source: &str, direction: &str) -> BTreeSet<String> {
    let function = format!("zcnic_get_queue_stats_{direction}(");
    let (_, body) = source.split_once(&function).expect("the function is there");
    let (body, _) = body.split_once("\n}\n").expect("it ends");
    between(body, "out->", " = ")
        .map(|field| format!("{direction}-{}", field.replace('_', "-")))
        .collect()
}

#[test]
fn the_readme_names_every_counter() {
    let (readme, source) = (read("README.md"), read("zcnic_stats.c"));
    let mut names = ethtool_names(&source);
    for direction in ["rx", "tx"] {
        let of_direction = queue_statistics(&source, direction);
        assert!(of_direction.len() > 5, "{of_direction:?}");
        names.extend(of_direction);
    }
    assert!(names.contains("resets") && names.contains("qN_tx_misordered"));
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !readme.contains(&format!("`{name}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "README.md of the driver lacks {missing:?}"
    );
}

#[test]
fn the_readme_names_every_file_in_debugfs() {
    let (readme, source) = (read("README.md"), read("zcnic_debugfs.c"));
    let files: Vec<_> = between(&source, "debugfs_create_file_unsafe(\"", "\"").collect();
    assert!(!files.is_empty(), "no file in zcnic_debugfs.c");
    for file in files {
        let path = format!("`/sys/kernel/debug/zcnic/virtioN/{file}`");
        assert!(
            readme.contains(&path),
            "README.md of the driver lacks {path}"
        );
    }
}
