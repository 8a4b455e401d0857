//! The structs of the ABI as values that can be read from bytes, with their reserved fields.

use std::{mem::size_of, ops::Range};

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

/// A struct of the ABI, and the ranges of its reserved bytes.
pub trait AbiStruct: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned {
    /// Byte ranges that senders set to zero and receivers refuse otherwise.
    const RESERVED: &'static [Range<usize>];
}

impl AbiStruct for U16 {
    const RESERVED: &'static [Range<usize>] = &[];
}

impl AbiStruct for U32 {
    const RESERVED: &'static [Range<usize>] = &[];
}

/// The offset of the first byte of `value` that is reserved and not zero.
pub fn reserved_bits<T: AbiStruct>(value: &T) -> Option<usize> {
    let bytes = value.as_bytes();
    T::RESERVED
        .iter()
        .find_map(|range| first_nonzero(bytes.get(range.clone())?).map(|at| range.start + at))
}

pub(super) fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte != 0)
}

/// Implements [`AbiStruct`] from the reserved fields of each struct, and `Default` as all zeroes.
macro_rules! layout {
    ($($name:ident: $($field:ident $(. $inner:ident)*),*;)+) => {
        $(
            impl $crate::abi::AbiStruct for $name {
                const RESERVED: &'static [std::ops::Range<usize>] = &[$({
                    let start = std::mem::offset_of!($name, $field $(. $inner)*);
                    start..start + $crate::abi::layout::field_size(
                        |value: &Self| &value.$field $(. $inner)*
                    )
                }),*];
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new_zeroed()
                }
            }
        )+
    };
}
pub(super) use layout;

/// The size of the field that `_field` selects.
pub(super) const fn field_size<T, F>(_field: fn(&T) -> &F) -> usize {
    size_of::<F>()
}
