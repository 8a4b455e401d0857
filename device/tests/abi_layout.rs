//! Compiles `images/driver/zcnic_abi.h` with the host's C compiler and compares every size, offset
//! and constant with `zcnic_device::abi`; an entry that one side lacks is an error, too.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use zcnic_device::abi::*;
use zcnic_device::features::Feature;
use zerocopy::little_endian::{U16, U32};

/// The layout of one side, by C name: sizes and offsets of structs and fields, values of constants.
type Facts = BTreeMap<String, String>;

const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/driver/zcnic_abi.h");

#[test]
fn the_mirror_has_the_layout_of_the_header() {
    let header = std::fs::read_to_string(HEADER).unwrap();
    let names = declared(&header);
    assert!(
        names.structs.len() > 20 && names.constants.len() > 80,
        "the header was not understood"
    );
    let ours = mirror();
    let theirs = compiled(&names);
    let all: Vec<_> = ours.keys().chain(theirs.keys()).collect();
    let mut differences: Vec<_> = all
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| {
            format!(
                "{name}: header {:?}, mirror {:?}",
                theirs.get(name),
                ours.get(name)
            )
        })
        .collect();
    differences.dedup();
    assert!(differences.is_empty(), "{differences:#?}");
}

fn size_fact(size: usize) -> String {
    format!("size {size}")
}

fn field_fact(offset: usize, size: usize) -> String {
    format!("offset {offset} size {size}")
}

/// The layout of the Rust side.
fn mirror() -> Facts {
    let mut facts = Facts::new();
    for layout in STRUCTS.concat() {
        let c = format!("zcnic_{}", words(layout.name));
        for field in layout.fields {
            // A keyword of Rust.
            let name = match field.name {
                "rule_type" => "type",
                name => name,
            };
            facts.insert(format!("{c}.{name}"), field_fact(field.offset, field.size));
        }
        facts.insert(c, size_fact(layout.size));
    }
    facts.extend(
        CONSTANTS
            .iter()
            .map(|(name, value)| (format!("ZCNIC_{name}"), value.to_string())),
    );

    // Arrays behind a struct, which Rust has no fields for.
    macro_rules! arrays {
        ($($c:literal: $element:ty, behind $name:ty;)+) => {$(
            facts.insert($c.into(), field_fact(size_of::<$name>(), size_of::<$element>()));
        )+};
    }
    arrays! {
        "zcnic_rss_set.table": U16, behind RssSet;
        "zcnic_rule_set.rules": Rule, behind RuleSet;
        "zcnic_rule_del.locations": U32, behind RuleDel;
        "zcnic_rx_mode.addresses": Address, behind RxMode;
        "zcnic_stats_response.queues": QueueStats, behind StatsResponse;
    }

    // The header names a value by this prefix and the variant.
    macro_rules! values {
        ($($prefix:literal: $name:ty;)+) => {$(
            facts.extend(<$name>::ALL.map(|value| (
                format!("{}{}", $prefix, words(&format!("{value:?}")).to_uppercase()),
                (value as u64).to_string(),
            )));
        )+};
    }
    values! {
        "ZCNIC_F_": Feature;
        "ZCNIC_HASH_": HashType;
        "ZCNIC_GSO_": GsoType;
        "ZCNIC_CMD_": Opcode;
        "ZCNIC_": Status;
        "ZCNIC_RX_SHAPE_": RxShape;
        "ZCNIC_FLOW_": FlowType;
        "ZCNIC_RSS_": RssSymmetric;
        "ZCNIC_RULE_": RuleType;
        "ZCNIC_ACTION_": RuleAction;
    }
    facts
}

/// A name of Rust as the header writes it: `RxqStart` is `rxq_start`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// The declarations of the header.
#[derive(Default)]
struct Names {
    /// Struct and its fields; a flexible array member ends in `[]`.
    structs: Vec<(String, Vec<String>)>,
    constants: Vec<String>,
}

/// Finds the declarations in `header`, which is written in the kernel's style: one per line.
fn declared(header: &str) -> Names {
    let mut names = Names::default();
    let mut inside = None;
    for line in without_comments(header).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), inside) {
            (["#define", name, _, ..], _) => names.constants.push((*name).into()),
            (["struct", name, "{"], None) => {
                names.structs.push(((*name).into(), Vec::new()));
                inside = Some("struct");
            }
            (["enum", _, "{"], None) => inside = Some("enum"),
            (["};"], _) => inside = None,
            ([name, "=", ..], Some("enum")) => names.constants.push((*name).into()),
            ([.., field], Some("struct")) => {
                let field = field.strip_suffix(';').expect(line);
                let name = match field.split_once('[') {
                    Some((_, "]")) | None => field,
                    Some((name, _)) => name,
                };
                names.structs.last_mut().unwrap().1.push(name.into());
            }
            ([], _) | (["#ifndef" | "#include" | "#endif" | "#define", ..], _) => {}
            _ => panic!("not understood: {line}"),
        }
    }
    names
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((code, comment)) = rest.split_once("/*") {
        out.push_str(code);
        rest = comment.split_once("*/").expect("unterminated comment").1;
    }
    out + rest
}

/// The layout that the C compiler reports for `names`.
fn compiled(names: &Names) -> Facts {
    let mut source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"{HEADER}\"\nint main(void) {{\n"
    );
    for (name, fields) in &names.structs {
        source += &format!("printf(\"{name}=size %zu\\n\", sizeof(struct {name}));\n");
        for field in fields {
            let (field, element) = field
                .strip_suffix("[]")
                .map_or((&**field, ""), |it| (it, "[0]"));
            source += &format!(
                "printf(\"{name}.{field}=offset %zu size %zu\\n\", offsetof(struct {name}, {field}), \
                 sizeof(((struct {name} *)0)->{field}{element}));\n"
            );
        }
    }
    for name in &names.constants {
        source += &format!("printf(\"{name}=%llu\\n\", (unsigned long long){name});\n");
    }
    source += "return 0;\n}\n";

    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (c, program) = (directory.join("abi_layout.c"), directory.join("abi_layout"));
    std::fs::write(&c, source).unwrap();
    let compile = Command::new("cc")
        .args(["-Wall", "-Werror", "-o"])
        .args([&program, &c])
        .output()
        .expect("this test needs a C compiler: install a package that provides cc");
    assert!(
        compile.status.success(),
        "{}",
        String::from_utf8_lossy(&compile.stderr)
    );
    let run = Command::new(&program).output().unwrap();
    assert!(run.status.success());
    String::from_utf8(run.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, fact)| (name.into(), fact.into()))
        .collect()
}
