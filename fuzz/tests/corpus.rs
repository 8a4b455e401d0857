//! All fuzz targets over their corpora and a bounded number of mutations of these.
//!
//! A failing input is written to a file, whose name the failure says.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use zcnic_fuzz::{TARGETS, Target};

/// The longest input that is made from others.
const MOST: usize = 4096;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs of a corpus, with their files, in order.
fn inputs(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = corpora().join(target.name);
    let files = fs::read_dir(&directory).expect("a corpus");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a file");
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

/// How many mutations to try; the environment may say another number.
fn mutations(target: &Target) -> usize {
    let wanted = std::env::var("ZCNIC_FUZZ_MUTATIONS").ok();
    wanted.map_or(target.mutations, |wanted| wanted.parse().expect("a number"))
}

/// Runs a target over its corpus, then over mutations, the same ones each time.
fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target");
    let corpus = inputs(target);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for (path, input) in &corpus {
        assert!(
            catch_unwind(|| (target.run)(input)).is_ok(),
            "{} fails",
            path.display()
        );
    }
    let mut random = fastrand::Rng::with_seed(target.name.len() as u64);
    for _ in 0..mutations(target) {
        let input = mutate(&corpus, &mut random);
        if catch_unwind(|| (target.run)(&input)).is_err() {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.input"));
            fs::write(&path, &input).expect("a file");
            panic!(
                "{} fails: move it to {}",
                path.display(),
                corpora().join(name).display()
            );
        }
    }
}

/// An input of the corpus with some changes, as fuzzers make them.
fn mutate(corpus: &[(PathBuf, Vec<u8>)], random: &mut fastrand::Rng) -> Vec<u8> {
    let any = |random: &mut fastrand::Rng| corpus[random.usize(..corpus.len())].1.clone();
    let mut input = any(random);
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=input.len());
        let end = (at + random.usize(..16)).min(input.len());
        match random.u8(..6) {
            0 => input[at..end].fill_with(|| random.u8(..)),
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.u8(..8);
                }
            }
            2 => {
                input.drain(at..end);
            }
            3 => {
                let piece = input[at..end].to_vec();
                let to = random.usize(..=input.len());
                input.splice(to..to, piece);
            }
            4 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)];
                }
            }
            _ => {
                let other = any(random);
                let from = random.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(MOST);
    input
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_corpus_and_a_test() {
            let mut tested = vec![$(stringify!($name)),*];
            let mut known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            let mut kept: Vec<_> = fs::read_dir(corpora())
                .expect("corpora")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
                .collect();
            tested.sort_unstable();
            known.sort_unstable();
            kept.sort_unstable();
            assert_eq!(tested, known);
            assert_eq!(kept, known);
        }
    };
}

targets! {
    capture chains commands control frames framing frontend guest ktap relay scenario topology
    transmit
}
