//! The clock of a port: the device's clock with a phase and a frequency of its own, as the PTP
//! hardware clock of a NIC has them.

use crate::abi::CLOCK_MAX_PPB;

/// Binary places of [`Frequency`].
const FRACTION: u32 = 62;

/// 2^-16 parts per million in one.
const UNITS: i128 = 65_536_000_000;

/// A deviation from the device's clock, as a fraction of elapsed time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frequency(i64);

impl Frequency {
    /// A deviation of `units` of 2^-16 parts per million, the kernel's `scaled_ppm`; `None`: it is
    /// larger than [`CLOCK_MAX_PPB`].
    #[must_use]
    pub fn new(units: i64) -> Option<Self> {
        let allowed = i128::from(CLOCK_MAX_PPB) * 65536 / 1000;
        let units = i128::from(units);
        let fraction = (units << FRACTION) / UNITS;
        (units.abs() <= allowed).then_some(Self(fraction as i64))
    }
}

/// A port's clock, in nanoseconds. Unadjusted, it is the device's.
///
/// ```
/// use zcnic_device::clock::{Frequency, PortClock};
///
/// let fast = Frequency::new(100 << 16).expect("100 parts per million");
/// let clock = PortClock::default().adjusted(1_000, 50, fast);
/// assert_eq!(clock.at(1_000), 1_050);
/// assert_eq!(clock.at(1_001_000), 1_001_150);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortClock {
    /// Time of the device's clock at the last adjustment.
    since: u64,
    /// Time of this clock then.
    time: u64,
    frequency: Frequency,
}

impl PortClock {
    /// Its time when the device's clock says `device`. It wraps, as the kernel's 64-bit times do.
    #[must_use]
    #[inline]
    pub fn at(&self, device: u64) -> u64 {
        let elapsed = device.wrapping_sub(self.since) as i64;
        let half = 1 << (FRACTION - 1);
        let product = i128::from(elapsed) * i128::from(self.frequency.0);
        let deviation = (product + half) >> FRACTION;
        self.time
            .wrapping_add_signed(elapsed)
            .wrapping_add_signed(deviation as i64)
    }

    /// Its time for a timestamp, of which 0 means that there is none.
    #[must_use]
    #[inline]
    pub fn stamp(&self, device: u64) -> u64 {
        self.at(device).max(1)
    }

    /// This clock, stepped by `step` nanoseconds when the device's says `device`, and with another
    /// frequency from then on.
    #[must_use]
    pub fn adjusted(&self, device: u64, step: i64, frequency: Frequency) -> Self {
        Self {
            since: device,
            time: self.at(device).wrapping_add_signed(step),
            frequency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_unadjusted_clock_is_the_devices() {
        for time in [0, 1, 1 << 40, u64::MAX] {
            assert_eq!(PortClock::default().at(time), time);
        }
    }

    #[test]
    fn a_frequency_is_exact_over_years() {
        let start = 1_700_000_000 * SECOND;
        let year = 365 * 86400 * SECOND;
        for ppb in [-100_000_000i64, -1_000, 1_000, 500_000, 100_000_000] {
            let units = ppb * 65_536 / 1_000;
            let frequency = Frequency::new(units).expect("allowed");
            let clock = PortClock::default().adjusted(start, 0, frequency);
            let expected = i128::from(year) * i128::from(units) / UNITS;
            let gained = i128::from(clock.at(start + year)) - i128::from(start + year);
            assert!((gained - expected).abs() <= 1, "{ppb} ppb: {gained}");
        }
    }

    #[test]
    fn a_change_of_frequency_makes_no_step() {
        let fast = Frequency::new(1 << 20).expect("allowed");
        let mut clock = PortClock::default();
        for number in 1..100 {
            let now = number * 7_777_777;
            let before = clock.at(now);
            clock = clock.adjusted(now, 0, [fast, Frequency::default()][number as usize % 2]);
            assert_eq!(clock.at(now), before);
        }
    }

    #[test]
    fn a_clock_never_stands_still() {
        let slow = Frequency::new(-6_553_600_000).expect("the lowest");
        let clock = PortClock::default().adjusted(0, 0, slow);
        assert!((0..1_000).all(|time| clock.at(time + 2) > clock.at(time)));
        assert_eq!(Frequency::new(-6_553_600_001), None);
        assert_eq!(Frequency::new(i64::MIN), None);
        assert_eq!(Frequency::new(i64::MAX), None);
    }

    #[test]
    fn times_before_an_adjustment_are_converted_as_well() {
        let clock = PortClock::default().adjusted(1_000, 500, Frequency::default());
        assert_eq!(clock.at(900), 1_400);
    }

    #[test]
    fn a_stamp_is_never_zero() {
        let clock = PortClock::default().adjusted(1_000, -1_000, Frequency::default());
        assert_eq!((clock.at(1_000), clock.stamp(1_000)), (0, 1));
    }
}
