//! How page pools end, by the kernel's own counts: netlink tells only of those that are left.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{HOME, eventually};

const TRACING: &str = "/sys/kernel/tracing";
/// Its enabling file; `page_pool_inflight()` (net/core/page_pool.c) says it of a pool that is destroyed, whenever
/// the kernel looks whether everything is back.
const EVENT: &str = "events/page_pool/page_pool_release/enable";

/// Listens to the tracepoint `page_pool_release` as long as it lives.
pub(crate) struct PoolEnds(());

/// The last that was said of a page pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolEnd {
    /// Buffers that it has taken from its provider or from the page allocator.
    pub(crate) hold: u64,
    /// Buffers that it has given back.
    pub(crate) release: u64,
}

impl PoolEnds {
    pub(crate) fn watch() -> Result<Self> {
        write("trace", "")?;
        write(EVENT, "1")?;
        Ok(Self(()))
    }

    /// Waits until all page pools that were destroyed since have given back what they took, and returns them.
    pub(crate) fn await_all_home(&self) -> Result<Vec<PoolEnd>> {
        let path = Path::new(TRACING).join("trace");
        eventually(HOME, || {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let ends = parse(&text);
            let closed = ends.iter().all(|end| end.hold == end.release);
            ensure!(closed, "page pools with buffers out: {ends:?}");
            Ok(ends)
        })
    }
}

impl Drop for PoolEnds {
    fn drop(&mut self) {
        if let Err(error) = write(EVENT, "0") {
            eprintln!("zcnic-guest: {error:#}");
        }
    }
}

fn write(file: &str, text: &str) -> Result<()> {
    let path = Path::new(TRACING).join(file);
    fs::write(&path, text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Vec<PoolEnd> {
    let mut ends = BTreeMap::new();
    for line in text.lines() {
        let Some((_, fields)) = line.split_once("page_pool_release: ") else {
            continue;
        };
        let field = |name: &str| {
            let mut fields = fields.split_whitespace();
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let number = |name: &str| field(name)?.parse().ok();
        if let (Some(pool), Some(hold), Some(release)) =
            (field("page_pool"), number("hold"), number("release"))
        {
            ends.insert(pool, PoolEnd { hold, release });
        }
    }
    ends.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_each_pool_counts() {
        let text = "# tracer: nop\n\
            <...>-91 [000] ..... 12.5: page_pool_release: page_pool=00000000aa inflight=3 hold=576 release=573 cnt=0\n\
            kworker/0:1-9 [000] ..... 13.5: page_pool_release: page_pool=00000000bb inflight=0 hold=64 release=64 cnt=1\n\
            kworker/0:1-9 [000] ..... 13.6: page_pool_release: page_pool=00000000aa inflight=0 hold=576 release=576 cnt=2\n";
        let end = |count| PoolEnd {
            hold: count,
            release: count,
        };
        assert_eq!(parse(text), [end(576), end(64)]);
        assert_eq!(parse("cpu_idle: state=1"), []);
    }
}
