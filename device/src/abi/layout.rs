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

/// A struct of the ABI as the header declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StructLayout {
    /// The name of the Rust struct.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its fields in their order.
    pub fields: &'static [FieldLayout],
}

/// A field of a [`StructLayout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// Its name.
    pub name: &'static str,
    /// Where it starts, in bytes.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
}

/// Declares structs of the ABI: without padding, readable from and writable to any address, all
/// zeroes by default. Behind a struct stand its reserved fields, those of inner structs included.
/// `STRUCTS` has the layout of each.
macro_rules! wire_structs {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)+
        }
        $(reserved: $($reserved:ident $(. $inner:ident)*),+;)?
    )+) => {
        $(
            $(#[$meta])*
            #[derive(
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout,
                zerocopy::Immutable, zerocopy::Unaligned,
                Debug, Clone, Copy, PartialEq, Eq,
            )]
            #[repr(C)]
            pub struct $name {
                $($(#[$field_meta])* pub $field: $type,)+
            }

            impl $crate::abi::AbiStruct for $name {
                const RESERVED: &'static [std::ops::Range<usize>] = &[$($({
                    let start = std::mem::offset_of!($name, $reserved $(. $inner)*);
                    start..start + $crate::abi::layout::field_size(
                        |value: &Self| &value.$reserved $(. $inner)*
                    )
                }),+)?];
            }

            impl Default for $name {
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }
        )+

        pub(super) const STRUCTS: &[$crate::abi::StructLayout] = &[$(
            $crate::abi::StructLayout {
                name: stringify!($name),
                size: size_of::<$name>(),
                fields: &[$(
                    $crate::abi::FieldLayout {
                        name: stringify!($field),
                        offset: std::mem::offset_of!($name, $field),
                        size: size_of::<$type>(),
                    },
                )+],
            },
        )+];
    };
}
pub(super) use wire_structs;

/// The size of the field that `_field` selects.
pub(super) const fn field_size<T, F>(_field: fn(&T) -> &F) -> usize {
    size_of::<F>()
}
