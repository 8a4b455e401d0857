//! The kernel's types (Documentation/bpf/btf.rst), to find the functions that programs may call.

use std::{fs, io};

const MAGIC: u16 = 0xeb9f;
const FUNCTION: u32 = 12;

/// Bytes behind the three words of a type of this kind, with this number of members.
fn trailing(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, names and qualifiers of others; functions; floats.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, enumerations of 64 bits.
        4 | 5 | 15 | 19 => 12 * members,
        // Enumerations and prototypes.
        6 | 13 => 8 * members,
        _ => return None,
    })
}

/// The numbers of functions by their names.
pub(crate) fn functions<const N: usize>(names: [&str; N]) -> io::Result<[i32; N]> {
    let types = fs::read("/sys/kernel/btf/vmlinux")?;
    let mut found = [0; N];
    for (at, name) in names.into_iter().enumerate() {
        let missing = || io::Error::other(format!("the kernel has no function {name}"));
        found[at] = find(&types, name).ok_or_else(missing)?;
    }
    Ok(found)
}

fn find(types: &[u8], name: &str) -> Option<i32> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(types.get(at..at + 4)?.try_into().ok()?))
    };
    let magic = u16::from_le_bytes(types.get(..2)?.try_into().ok()?);
    let (header, strings) = (word(4)? as usize, word(16)? as usize);
    let mut at = header + word(8)? as usize;
    let end = at + word(12)? as usize;
    let mut number = 0;
    while magic == MAGIC && at < end {
        number += 1;
        let (text, info) = (header + strings + word(at)? as usize, word(at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let rest = types.get(text..)?.strip_prefix(name.as_bytes());
        if kind == FUNCTION && rest.is_some_and(|rest| rest.first() == Some(&0)) {
            return Some(number);
        }
        at += 12 + trailing(kind, members)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob with an integer, a structure of two members, a prototype and two functions.
    fn blob() -> Vec<u8> {
        let strings = b"\0int\0bpf_some\0bpf_some_more\0";
        let info = |kind: u32, members: u32| kind << 24 | members;
        let mut types: Vec<u32> = vec![1, info(1, 0), 4, 0];
        types.extend([0, info(4, 2), 8, 0, 1, 0, 0, 1, 32]);
        types.extend([0, info(13, 1), 1, 0, 1]);
        types.extend([14, info(FUNCTION, 1), 3]);
        types.extend([5, info(FUNCTION, 1), 3]);
        let header = [
            0x0001_eb9f,
            24,
            0,
            4 * types.len() as u32,
            4 * types.len() as u32,
        ];
        let words = header
            .into_iter()
            .chain([strings.len() as u32])
            .chain(types);
        let mut blob: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        blob.extend(strings);
        blob
    }

    #[test]
    fn functions_are_found_by_their_whole_name() {
        assert_eq!(find(&blob(), "bpf_some"), Some(5));
        assert_eq!(find(&blob(), "bpf_some_more"), Some(4));
        assert_eq!(find(&blob(), "bpf"), None);
        assert_eq!(find(&blob(), "int"), None, "a type, not a function");
    }

    #[test]
    fn a_truncated_blob_has_no_functions() {
        let blob = blob();
        for length in 0..90 {
            assert_eq!(find(&blob[..length], "bpf_some"), None);
        }
    }
}
