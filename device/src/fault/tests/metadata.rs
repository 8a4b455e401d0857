use super::*;
use crate::{
    abi::{RX_CSUM_BAD, RX_CSUM_GOOD},
    fault::metadata::WrongVerdict,
};

action_tests! {
    "wrong-hash" => fn wrong_hash_replaces_the_hash() {
        let bench = struck(Action::Metadata(MetadataFault::WrongHash { value: Some(42) }));
        assert_eq!(bench.seen(), instead(|frame| vec![Seen { hash: 42, ..frame }]));
        let drawn = struck(Action::Metadata(MetadataFault::WrongHash { value: None })).seen();
        let hash = drawn[2].hash;
        assert_ne!(hash, clean(SPLIT)[2].hash);
        assert_eq!(drawn, instead(|frame| vec![Seen { hash, ..frame }]));
    }

    "wrong-checksum" => fn wrong_checksum_replaces_the_verdict() {
        for (verdict, reported) in [
            (WrongVerdict::Inverted, RX_CSUM_BAD),
            (WrongVerdict::Bad, RX_CSUM_BAD),
            (WrongVerdict::Good, RX_CSUM_GOOD),
            (WrongVerdict::Unknown, 0),
        ] {
            let bench = struck(Action::Metadata(MetadataFault::WrongChecksum { verdict }));
            assert_eq!(bench.seen(), instead(|mut frame| {
                frame.flags = frame.flags & !(RX_CSUM_BAD | RX_CSUM_GOOD) | reported;
                vec![frame]
            }));
        }
    }
}

#[test]
fn a_wrong_checksum_can_be_reported_good() {
    let mut bench = Bench::new(
        SPLIT,
        vec![third(Action::Metadata(MetadataFault::WrongChecksum {
            verdict: WrongVerdict::Inverted,
        }))],
    );
    for mut frame in frames() {
        *frame.last_mut().expect("bytes") ^= 1;
        bench.send(&frame);
    }
    let verdicts: Vec<_> = bench
        .seen()
        .iter()
        .map(|seen| seen.flags & (RX_CSUM_GOOD | RX_CSUM_BAD))
        .collect();
    let mut expected = [RX_CSUM_BAD; 5];
    expected[2] = RX_CSUM_GOOD;
    assert_eq!(verdicts, expected);
}
