//! A case of the suite.

use anyhow::Result;

use crate::fixture::{lab::Lab, transcript::Transcript};

/// A state or mode of a receive-path feature.
pub(super) struct FeatureCase {
    /// `feature: statement`.
    pub(super) name: &'static str,
    pub(super) run: fn(&mut Lab, &Transcript) -> Result<()>,
}
