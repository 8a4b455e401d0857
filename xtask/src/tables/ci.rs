//! docs/ci.md: the parts of CI, when each runs, and when it last succeeded.

use anyhow::Result;

use super::kept::table;
use crate::ci::{
    parts::PARTS,
    record::{Record, Success},
};

/// The table of parts.
pub(super) fn section() -> Result<String> {
    let record = Record::read()?;
    let heading = ["part", "proves that", "runs", "last success", "minutes"].map(str::to_owned);
    let mut rows = vec![heading.to_vec()];
    for part in &PARTS {
        let success = record.of(part.name);
        rows.push(vec![
            format!("`{}`", part.name),
            part.about.to_owned(),
            part.tier.name().to_owned(),
            success.map(Success::words).unwrap_or_default(),
            success.map_or_else(String::new, |success| {
                format!("{:.1}", success.seconds / 60.0)
            }),
        ]);
    }
    Ok(table(&rows))
}
