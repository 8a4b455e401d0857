//! A case of the suite.

use anyhow::Result;

use crate::fixture::{lab::Lab, transcript::Transcript};

/// Something that a system does.
pub(super) struct FeatureCase {
    /// The system, and what is shown.
    pub(super) name: &'static str,
    pub(super) run: fn(&mut Lab, &Transcript) -> Result<()>,
}
