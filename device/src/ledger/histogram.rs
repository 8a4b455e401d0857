//! Counts by order of magnitude.

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = 48;

/// Counts of values. Bucket 0 counts zeroes, bucket n values from 2^(n-1) to 2^n - 1, the last one
/// everything above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram([u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// Counts `value`.
    pub fn add(&mut self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.0[bucket.min(BUCKETS - 1)] += 1;
    }

    /// The non-empty buckets: the least value of each, and its count.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let used = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(|(bucket, count)| (if bucket == 0 { 0 } else { 1 << (bucket - 1) }, *count))
    }

    /// Values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_magnitude() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 7, 8, u64::MAX] {
            histogram.add(value);
        }
        let buckets: Vec<_> = histogram.iter().collect();
        assert_eq!(
            buckets,
            [(0, 1), (1, 1), (2, 2), (4, 2), (8, 1), (1 << 46, 1)]
        );
        assert_eq!(histogram.total(), 8);
    }
}
