//! The device's work per frame, one part at a time: `cargo bench -p zcnic-device`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use zcnic_device::{
    abi::{self, GsoType, RuleAction, RuleType},
    checksum::Checksum,
    features::FeatureSet,
    frame::Headers,
    memory::Mover,
    rss::{DEFAULT_KEY, RssContext, Toeplitz},
    steering::Steering,
    train::Changes,
    transmit::{Snapshot, TransmitFormat, parse},
};
use zerocopy::IntoBytes;

/// Reads from a slice: transmit needs no more.
struct Slice;

impl Mover for Slice {
    type Source = [u8];
    type Target = ();

    fn source_len(&self, source: &[u8]) -> usize {
        source.len()
    }

    fn target_len(&self, (): &()) -> usize {
        0
    }

    fn snapshot(&self, source: &[u8], offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&source[offset..offset + into.len()]);
    }

    fn copy(&self, _: &[u8], _: usize, (): &(), _: usize, _: usize, _: &mut Checksum) {}

    fn put(&self, (): &(), _: usize, _: &[u8]) {}
}

/// An Ethernet frame with TCP from `port` to port 80, with a partial checksum.
fn tcp4(port: u16, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    let length = (40 + payload) as u16;
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 2, 0, 0, 0, 0, 0]);
    frame.resize(frame.len() + payload, 0x5a);
    frame
}

fn parse_headers(criterion: &mut Criterion) {
    let frame = tcp4(1000, 6);
    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| Headers::parse(black_box(&frame), frame.len()));
    });
}

fn hash(criterion: &mut Criterion) {
    let toeplitz = Toeplitz::new(&DEFAULT_KEY);
    let mut group = criterion.benchmark_group("hash");
    for (name, length) in [("12 bytes (IPv4)", 12), ("36 bytes (IPv6)", 36)] {
        let input = vec![0xa5; length];
        group.bench_function(name, |bencher| {
            bencher.iter(|| toeplitz.hash(black_box(&input)));
        });
    }
    let (context, frame) = (RssContext::spread(4), tcp4(1000, 6));
    let headers = Headers::parse(&frame, frame.len());
    group.bench_function("of a TCP frame", |bencher| {
        bencher.iter(|| context.hash(black_box(&headers), &frame));
    });
    group.finish();
}

/// Steering with this many exact rules, spread over this many masks.
fn steering(rules: u32, masks: u32) -> Steering {
    let mut steering = Steering::plain(4);
    let rules: Vec<abi::Rule> = (0..rules)
        .map(|number| {
            let mut rule = abi::Rule {
                location: number.into(),
                rule_type: RuleType::Tcp4.into(),
                action: RuleAction::Queue.into(),
                queue: ((number % 4) as u16).into(),
                ..abi::Rule::default()
            };
            rule.mask.l4_src = 0xffff.into();
            rule.value.l4_src = (number as u16).into();
            // Each of these masks omits another bit of a field that is zero in all frames.
            rule.mask.ip_tos = !(1u8 << (number % masks % 8));
            rule
        })
        .collect();
    steering.set_rules(&rules).expect("rules");
    steering
}

fn lookup(criterion: &mut Criterion) {
    const FLOWS: u32 = 10_000;
    let frames: Vec<_> = (0..FLOWS)
        .map(|flow| tcp4(flow as u16, 6))
        .map(|frame| (Headers::parse(&frame, frame.len()), frame))
        .collect();
    let mut group = criterion.benchmark_group("steer 10000 flows");
    for (rules, masks) in [(0, 1), (1, 1), (100, 1), (FLOWS, 1), (FLOWS, 2), (FLOWS, 8)] {
        let steering = steering(rules, masks);
        let name = BenchmarkId::new(format!("{masks} masks"), rules);
        let mut next = frames.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (headers, frame) = next.next().expect("a cycle");
                steering.steer(black_box(headers), frame)
            });
        });
    }
    group.finish();
}

fn split(criterion: &mut Criterion) {
    let frame = tcp4(1000, 6);
    let headers = Headers::parse(&frame, frame.len());
    criterion.bench_function("split", |bencher| {
        bencher.iter(|| black_box(&headers).split_point(black_box(192)));
    });
}

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [20, 64, 1460, 4096, 65536] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| {
                let mut sum = Checksum::new();
                sum.add(black_box(&bytes));
                sum.finish()
            });
        });
    }
    group.finish();
}

fn segmentation(criterion: &mut Criterion) {
    let frame = tcp4(1000, 64_000);
    let header = abi::TxHeader {
        flags: abi::TX_CSUM.into(),
        gso_type: GsoType::Tcp4.into(),
        header_length: 54.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
        gso_size: 1448.into(),
        l3_offset: 14.into(),
        ..abi::TxHeader::default()
    };
    let chain = [header.as_bytes(), &frame].concat();
    let mut snapshot = Snapshot::default();
    criterion.bench_function("parse a transmit chain", |bencher| {
        bencher.iter(|| {
            let source = black_box(&chain[..]);
            let format = TransmitFormat::Zcnic;
            parse(&Slice, source, format, FeatureSet::ALL, &mut snapshot).map(|t| t.segments())
        });
    });
    let train = parse(
        &Slice,
        &chain[..],
        TransmitFormat::Zcnic,
        FeatureSet::ALL,
        &mut snapshot,
    )
    .expect("is sent");
    let mut changes = Changes::default();
    criterion.bench_function("make a segment's headers", |bencher| {
        bencher.iter(|| train.segment(black_box(7), &mut changes).length);
    });
}

criterion_group!(
    benches,
    parse_headers,
    hash,
    lookup,
    split,
    checksum,
    segmentation
);
criterion_main!(benches);
