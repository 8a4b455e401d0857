//! Reading requests by the rule of openat2(2), so that either side may be the newer one: missing
//! bytes of a shorter request are zero, a longer request is refused unless its tail is zero.

use std::mem::{offset_of, size_of};

use zerocopy::FromBytes;

use super::{
    command::Request,
    layout::{AbiStruct, first_nonzero, reserved_bits},
};

/// A request was refused because of one of its fields. The field's byte offset is the detail of
/// [`Status::Invalid`](super::Status::Invalid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the field at byte {offset} of the request is not acceptable")]
pub struct Invalid {
    /// Bytes from the start of the request.
    pub offset: usize,
}

impl Invalid {
    /// The request's length does not fit its content.
    pub(crate) const LENGTH: Self = Self {
        offset: offset_of!(Request, length),
    };
}

/// Reads the fixed struct `T`, which begins with the request header, from the bytes of a whole
/// request.
///
/// # Errors
/// The request ends inside its header, is longer than `T` with a tail that is not zero, or has a
/// reserved field that is not zero.
pub fn read_request<T: AbiStruct>(request: &[u8]) -> Result<T, Invalid> {
    if request.len() < size_of::<Request>() {
        return Err(Invalid::LENGTH);
    }
    let mut value = T::new_zeroed();
    let known = request.len().min(size_of::<T>());
    let (known_bytes, tail) = request.split_at(known);
    value.as_mut_bytes()[..known].copy_from_slice(known_bytes);
    if let Some(at) = first_nonzero(tail) {
        return Err(Invalid { offset: known + at });
    }
    if let Some(offset) = reserved_bits(&value) {
        return Err(Invalid { offset });
    }
    Ok(value)
}

/// Reads the fixed struct `T` and the elements that follow it from the bytes of a whole request.
/// `count` returns the number of elements that the fixed struct announces.
///
/// # Errors
/// The request does not end exactly behind the last element, or the struct or an element has a
/// reserved field that is not zero.
pub fn read_array<T: AbiStruct, E: AbiStruct>(
    request: &[u8],
    count: impl FnOnce(&T) -> usize,
) -> Result<(T, &[E]), Invalid> {
    let (fixed, bytes) = T::read_from_prefix(request).map_err(|_| Invalid::LENGTH)?;
    if let Some(offset) = reserved_bits(&fixed) {
        return Err(Invalid { offset });
    }
    let count = count(&fixed);
    if count.checked_mul(size_of::<E>()) != Some(bytes.len()) {
        return Err(Invalid::LENGTH);
    }
    let elements = <[E]>::ref_from_bytes_with_elems(bytes, count).map_err(|_| Invalid::LENGTH)?;
    for (index, element) in elements.iter().enumerate() {
        if let Some(at) = reserved_bits(element) {
            return Err(Invalid {
                offset: size_of::<T>() + index * size_of::<E>() + at,
            });
        }
    }
    Ok((fixed, elements))
}

#[cfg(test)]
mod tests {
    use zerocopy::{IntoBytes, little_endian::U32};

    use super::*;
    use crate::abi::{Hello, QueueCommand, Rule, RuleDel, RuleSet};

    fn hello() -> Hello {
        let mut hello = Hello::default();
        hello.version_max.set(7);
        hello.features = [3.into(), 5.into()];
        hello
    }

    fn invalid<T>(offset: usize) -> Result<T, Invalid> {
        Err(Invalid { offset })
    }

    #[test]
    fn shorter_requests_are_filled_with_zeroes() {
        let hello = hello();
        let bytes = hello.as_bytes();
        assert_eq!(read_request(bytes), Ok(hello));
        let mut older = hello;
        older.features[1] = 0.into();
        assert_eq!(read_request(&bytes[..bytes.len() - 8]), Ok(older));
        // Even in the middle of a field.
        older.features[0] = 0.into();
        older.version_max = 7.into();
        assert_eq!(read_request(&bytes[..27]), Ok(older));
        assert_eq!(read_request(&bytes[..24]), Ok(Hello::default()));
        for length in 0..24 {
            assert_eq!(read_request::<Hello>(&bytes[..length]), invalid(12));
        }
    }

    #[test]
    fn longer_requests_are_refused_at_the_first_nonzero_byte() {
        let mut bytes = hello().as_bytes().to_vec();
        let known = bytes.len();
        bytes.extend([0; 9]);
        assert_eq!(read_request(&bytes), Ok(hello()));
        bytes[known + 8] = 1;
        assert_eq!(read_request::<Hello>(&bytes), invalid(known + 8));
        bytes[known + 3] = 0x80;
        assert_eq!(read_request::<Hello>(&bytes), invalid(known + 3));
    }

    #[test]
    fn reserved_fields_are_refused() {
        let command = QueueCommand::default();
        for (at, reserved) in [
            (4, false),
            (6, true),
            (7, true),
            (24, false),
            (26, true),
            (31, true),
        ] {
            let mut bytes = command.as_bytes().to_vec();
            bytes[at] = 1;
            let result = read_request::<QueueCommand>(&bytes);
            assert_eq!(result.is_err(), reserved, "byte {at}");
            if reserved {
                assert_eq!(result, invalid(at));
            }
        }
    }

    #[test]
    fn arrays_end_with_the_request() {
        let mut set = RuleDel::default();
        set.count.set(2);
        let mut bytes = set.as_bytes().to_vec();
        let read = |bytes: &[u8]| {
            read_array::<RuleDel, U32>(bytes, |set| set.count.get() as usize)
                .map(|(_, locations)| locations.iter().map(|it| it.get()).collect::<Vec<_>>())
        };
        bytes.extend([5, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(read(&bytes), Ok(vec![5, 6]));
        bytes.push(0);
        assert_eq!(read(&bytes), invalid(12));
        for length in 0..bytes.len() - 1 {
            assert_eq!(read(&bytes[..length]), invalid(12), "{length} bytes");
        }
        bytes.pop();
        bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&bytes), invalid(12));
        bytes[31] = 1;
        assert_eq!(read(&bytes), invalid(31));
    }

    #[test]
    fn reserved_fields_of_elements_are_refused() {
        let mut set = RuleSet::default();
        set.count.set(2);
        let mut rule = Rule::default();
        rule.mask.reserved.set(1);
        let bytes = [set.as_bytes(), Rule::default().as_bytes(), rule.as_bytes()].concat();
        let result = read_array::<RuleSet, Rule>(&bytes, |set| set.count.get() as usize);
        let offset = size_of::<RuleSet>() + size_of::<Rule>() + offset_of!(Rule, mask.reserved);
        // The field is big endian: its second byte holds the bit.
        assert_eq!(result.map(|_| ()), invalid(offset + 1));
    }
}
