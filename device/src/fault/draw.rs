//! Random decisions without state.

use super::action::Direction;

/// The purpose of a draw, so that the draws of one rule for one frame are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whether the rule hits.
    Hit,
    /// The parameter of its action.
    Parameter,
}

/// The inputs of a draw that stay the same from frame to frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawSource {
    /// The rule's seed.
    pub seed: u64,
    /// The rule's stream: its number among the rules with the same seed.
    pub stream: u32,
    /// The lane's direction.
    pub direction: Direction,
    /// The lane's queue.
    pub queue: u16,
}

impl DrawSource {
    /// A pseudo-random number that depends on this source, `count` and `purpose` only.
    #[must_use]
    pub fn draw(&self, count: u64, purpose: Purpose) -> u64 {
        let lane = u64::from(self.stream) << 32
            | u64::from(self.queue) << 8
            | (self.direction as u64) << 4
            | purpose as u64;
        [self.seed, lane, count]
            .into_iter()
            .fold(0, |state, word| mix(state ^ mix(word)))
    }
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators").
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: DrawSource = DrawSource {
        seed: 7,
        stream: 0,
        direction: Direction::Receive,
        queue: 3,
    };

    /// Recorded runs can be replayed only as long as these values don't change.
    #[test]
    fn draws_never_change() {
        let draws = [1, 2, 3].map(|count| SOURCE.draw(count, Purpose::Hit));
        assert_eq!(
            draws,
            [
                13_088_692_086_425_940_351,
                4_626_458_460_030_041_128,
                10_356_038_996_038_369_383
            ]
        );
    }

    #[test]
    fn draws_depend_on_every_input() {
        let draw = |source: DrawSource| source.draw(1, Purpose::Hit);
        let others = [
            draw(SOURCE),
            draw(DrawSource { seed: 8, ..SOURCE }),
            draw(DrawSource {
                stream: 1,
                ..SOURCE
            }),
            draw(DrawSource { queue: 4, ..SOURCE }),
            draw(DrawSource {
                direction: Direction::Transmit,
                ..SOURCE
            }),
            SOURCE.draw(2, Purpose::Hit),
            SOURCE.draw(1, Purpose::Parameter),
        ];
        let distinct: std::collections::BTreeSet<_> = others.into_iter().collect();
        assert_eq!(distinct.len(), others.len());
    }

    #[test]
    fn bits_are_balanced() {
        const DRAWS: u64 = 10_000;
        for bit in 0..64 {
            let ones = (0..DRAWS)
                .filter(|&count| SOURCE.draw(count, Purpose::Parameter) >> bit & 1 == 1)
                .count();
            // Six standard deviations; the draws are the same in each run.
            assert!((4700..5300).contains(&ones), "bit {bit}: {ones}");
        }
    }
}
