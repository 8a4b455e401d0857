//! Compiles `images/driver/zcnic_abi.h` with the host's C compiler and compares every size, offset
//! and constant with `zcnic_device::abi`; an entry that one side lacks is an error, too.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use zcnic_device::abi::*;
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

fn field_size<T, F>(_field: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The layout of the Rust side.
#[expect(clippy::too_many_lines, reason = "a table")]
fn mirror() -> Facts {
    let mut facts = Facts::new();

    macro_rules! structs {
        ($($c:ident: $name:ident { $($field:ident $(as $c_field:literal)?),* $(,)? }
            $([$array:ident: $element:ty])?;)+) => {$(
            facts.insert(stringify!($c).into(), size_fact(size_of::<$name>()));
            $(
                let field = [$($c_field,)? stringify!($field)][0];
                facts.insert(
                    format!("{}.{field}", stringify!($c)),
                    field_fact(offset_of!($name, $field), field_size(|it: &$name| &it.$field)),
                );
            )*
            $(
                facts.insert(
                    format!("{}.{}", stringify!($c), stringify!($array)),
                    field_fact(size_of::<$name>(), size_of::<$element>()),
                );
            )?
        )+};
    }
    macro_rules! constants {
        ($($name:ident),+ $(,)?) => {$(
            facts.insert(format!("ZCNIC_{}", stringify!($name)), $name.to_string());
        )+};
    }
    macro_rules! values {
        ($($c:ident = $value:path,)+) => {$(
            facts.insert(stringify!($c).into(), ($value as u64).to_string());
        )+};
    }

    structs! {
        zcnic_rx_header: RxHeader {
            flags, chain, frame_id, header_length, payload_length, frame_length, hash, hash_type,
            gso_type, queue, seg_size, seg_count, vlan_tci, l3_offset, l4_offset, reserved0,
            timestamp_ns, reserved2,
        };
        zcnic_tx_header: TxHeader {
            flags, gso_type, reserved0, header_length, csum_start, csum_offset, gso_size,
            l3_offset, reserved1,
        };
        zcnic_tx_time: TxTime { timestamp_ns, reserved };
        zcnic_event: Event { magic, sequence, session, pending, reserved0, reserved1 };
        zcnic_request: Request { magic, opcode, reserved, sequence, length, session };
        zcnic_response: Response {
            magic, opcode, status, sequence, length, session, detail, reserved,
        };
        zcnic_hello: Hello { request, version_min, version_max, queue_pairs, reserved, features };
        zcnic_hello_response: HelloResponse {
            response, version, max_rss_contexts, max_rss_table, max_chains, max_rules, max_frame,
            max_header_size, max_page_size, features,
        };
        zcnic_rxq_start: RxqStart {
            request, queue, shape, max_chains, header_size, page_size, hds_thresh,
        };
        zcnic_queue_command: QueueCommand { request, queue, reserved0, reserved1 };
        zcnic_rss_set: RssSet {
            request, context, symmetric, table_length, reserved, fields, key, reserved1,
        } [table: U16];
        zcnic_rss_del: RssDel { request, context, reserved0, reserved1 };
        zcnic_flow: Flow {
            eth_dst, eth_src, eth_type, vlan_tci, ip_proto, ip_tos, reserved, ip_src, ip_dst,
            l4_src, l4_dst,
        };
        zcnic_rule: Rule {
            location, rule_type as "type", action, queue, context, reserved0, reserved1, value,
            mask,
        };
        zcnic_rule_set: RuleSet { request, count, reserved } [rules: Rule];
        zcnic_rule_del: RuleDel { request, count, reserved } [locations: U32];
        zcnic_address: Address { octets };
        zcnic_rx_mode: RxMode { request, flags, count, reserved } [addresses: Address];
        zcnic_offloads: Offloads { request, features };
        zcnic_coalesce: Coalesce { request, rx_usecs, rx_chains, tx_usecs, tx_chains };
        zcnic_stats: Stats { request, first, count, reserved };
        zcnic_queue_stats: QueueStats {
            rx_frames, rx_bytes, rx_split, rx_csum_bad, rx_no_buffer, rx_stopped, rx_too_long,
            rx_bad_chain, rx_gro_frames, rx_gro_bytes, rx_gro_wire_frames, rx_gro_wire_bytes,
            tx_frames, tx_bytes, tx_errors,
        };
        zcnic_port_stats: PortStats { rx_filtered, rx_rule_drop, commands, commands_refused };
        zcnic_stats_response: StatsResponse { response, port } [queues: QueueStats];
        zcnic_status_response: StatusResponse {
            response, flags, event_sequence, rx_running, tx_running,
        };
        zcnic_clock_response: ClockResponse { response, nanoseconds };
    }
    constants! {
        ABI_VERSION, MAGIC, MAX_REQUEST, FEATURE_WORDS, F_RX_CSUM, F_TX_CSUM, F_TSO4, F_TSO6,
        F_USO, F_RX_HASH, F_SPLIT, F_RULES, F_RSS_CONTEXTS, F_RSS_SYMMETRIC, F_GRO,
        F_TIMESTAMP, F_VLAN, F_COALESCE, RX_FIRST, RX_LAST, RX_SPLIT, RX_CSUM_GOOD, RX_CSUM_BAD, RX_VLAN, RX_AGGREGATED, RX_TIMESTAMP, RX_FIXED_ID,
        RX_FIXED_ID_INNER, TX_CSUM, TX_TIMESTAMP,
        FLOW_TYPES, FIELD_IP_SRC, FIELD_IP_DST, FIELD_L4_SRC, FIELD_L4_DST, FIELD_FLOW_LABEL,
        RSS_KEY_SIZE, RX_MODE_PROMISC, RX_MODE_ALLMULTI, STATUS_LINK_UP, EVENT_LINK, EVENT_RESET,
    }
    values! {
        ZCNIC_HASH_NONE = HashType::None,
        ZCNIC_HASH_IPV4 = HashType::Ipv4,
        ZCNIC_HASH_TCP4 = HashType::Tcp4,
        ZCNIC_HASH_UDP4 = HashType::Udp4,
        ZCNIC_HASH_IPV6 = HashType::Ipv6,
        ZCNIC_HASH_TCP6 = HashType::Tcp6,
        ZCNIC_HASH_UDP6 = HashType::Udp6,
        ZCNIC_GSO_NONE = GsoType::None,
        ZCNIC_GSO_TCP4 = GsoType::Tcp4,
        ZCNIC_GSO_TCP6 = GsoType::Tcp6,
        ZCNIC_GSO_UDP = GsoType::Udp,
        ZCNIC_CMD_HELLO = Opcode::Hello,
        ZCNIC_CMD_RXQ_START = Opcode::RxqStart,
        ZCNIC_CMD_RXQ_STOP = Opcode::RxqStop,
        ZCNIC_CMD_TXQ_START = Opcode::TxqStart,
        ZCNIC_CMD_TXQ_STOP = Opcode::TxqStop,
        ZCNIC_CMD_RSS_SET = Opcode::RssSet,
        ZCNIC_CMD_RSS_DEL = Opcode::RssDel,
        ZCNIC_CMD_RULE_SET = Opcode::RuleSet,
        ZCNIC_CMD_RULE_DEL = Opcode::RuleDel,
        ZCNIC_CMD_RX_MODE = Opcode::RxMode,
        ZCNIC_CMD_OFFLOADS = Opcode::Offloads,
        ZCNIC_CMD_COALESCE = Opcode::Coalesce,
        ZCNIC_CMD_STATS = Opcode::Stats,
        ZCNIC_CMD_STATUS = Opcode::Status,
        ZCNIC_CMD_CLOCK = Opcode::Clock,
        ZCNIC_OK = Status::Ok,
        ZCNIC_ACCEPTED = Status::Accepted,
        ZCNIC_STALE = Status::Stale,
        ZCNIC_INVALID = Status::Invalid,
        ZCNIC_UNSUPPORTED = Status::Unsupported,
        ZCNIC_NO_SPACE = Status::NoSpace,
        ZCNIC_NOT_FOUND = Status::NotFound,
        ZCNIC_BUSY = Status::Busy,
        ZCNIC_VERSION = Status::Version,
        ZCNIC_RX_SHAPE_LINEAR = RxShape::Linear,
        ZCNIC_RX_SHAPE_SPLIT = RxShape::Split,
        ZCNIC_FLOW_IPV4 = FlowType::Ipv4,
        ZCNIC_FLOW_TCP4 = FlowType::Tcp4,
        ZCNIC_FLOW_UDP4 = FlowType::Udp4,
        ZCNIC_FLOW_IPV6 = FlowType::Ipv6,
        ZCNIC_FLOW_TCP6 = FlowType::Tcp6,
        ZCNIC_FLOW_UDP6 = FlowType::Udp6,
        ZCNIC_RSS_ASYMMETRIC = RssSymmetric::Asymmetric,
        ZCNIC_RSS_SYM_XOR = RssSymmetric::SymXor,
        ZCNIC_RSS_SYM_OR_XOR = RssSymmetric::SymOrXor,
        ZCNIC_RULE_ETHER = RuleType::Ether,
        ZCNIC_RULE_IPV4 = RuleType::Ipv4,
        ZCNIC_RULE_TCP4 = RuleType::Tcp4,
        ZCNIC_RULE_UDP4 = RuleType::Udp4,
        ZCNIC_RULE_IPV6 = RuleType::Ipv6,
        ZCNIC_RULE_TCP6 = RuleType::Tcp6,
        ZCNIC_RULE_UDP6 = RuleType::Udp6,
        ZCNIC_ACTION_DROP = RuleAction::Drop,
        ZCNIC_ACTION_QUEUE = RuleAction::Queue,
        ZCNIC_ACTION_CONTEXT = RuleAction::Context,
    }
    facts
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
