//! Interleaved samples of two sides.

use anyhow::Result;
use zcnic_guest_protocol::figure::Figure;

/// The side that a sample is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one under test.
    A,
    /// The one that it is compared with.
    B,
}

/// Samples a, b and a again in each of `rounds` rounds.
pub(super) fn interleave(
    name: &str,
    unit: &str,
    rounds: usize,
    mut sample: impl FnMut(Side) -> Result<f64>,
) -> Result<Figure> {
    let mut figure = Figure {
        name: name.to_owned(),
        unit: unit.to_owned(),
        ..Figure::default()
    };
    for _ in 0..rounds {
        figure.a.push(sample(Side::A)?);
        figure.b.push(sample(Side::B)?);
        figure.again.push(sample(Side::A)?);
    }
    Ok(figure)
}
