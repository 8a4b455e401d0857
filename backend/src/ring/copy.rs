//! The copies: of a frame's payload, with its checksum folded in, and of headers.
//!
//! The sum is that of the bytes stored, even if the guest rewrites the source meanwhile: each byte
//! is loaded once. So is each byte of a header, which is decided on.

#![allow(
    unsafe_code,
    reason = "vector instructions, on memory that guests write to at any time"
)]

use std::ptr;

use super::prefetch::CACHE_LINE;

/// Copies `length` bytes and returns the sum of the words stored, as the device's
/// `Checksum::add_native` takes it.
///
/// # Safety
///
/// Both are mapped for `length` bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(super) unsafe fn copy_and_sum(from: *const u8, to: *mut u8, length: usize) -> u64 {
    /// Bytes from which on a check of the processor's features pays.
    const WIDE: usize = 256;
    if length >= WIDE && std::arch::is_x86_feature_detected!("avx512bw") {
        // SAFETY: the caller's promise; the processor has AVX-512.
        unsafe { copy_and_sum_avx512(from, to, length) }
    } else if length >= WIDE && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the caller's promise; the processor has AVX2.
        unsafe { copy_and_sum_avx2(from, to, length) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { copy_and_sum_sse2(from, to, length) }
    }
}

/// A copy loop over vectors. A loaded vector passes through an empty `asm!`, so that the compiler
/// can't load it a second time for the sum: the guest may have changed it.
#[cfg(all(target_arch = "x86_64", not(miri)))]
macro_rules! copy_and_sum_by {
    ($name:ident, $feature:literal, $vector:ty, $register:ident, $load:ident, $store:ident,
     $zero:ident, $add:ident, $shift:ident, $and:ident, $mask:ident) => {
        /// Part of [`copy_and_sum`].
        ///
        /// # Safety
        ///
        /// As there, and the processor has the feature.
        #[target_feature(enable = $feature)]
        unsafe fn $name(from: *const u8, to: *mut u8, length: usize) -> u64 {
            use std::arch::{asm, x86_64::{$add, $and, $load, $mask, $shift, $store, $zero}};
            const STEP: usize = size_of::<$vector>();
            let mut done = 0;
            let low = $mask(0xffff_ffff);
            let (mut first, mut second) = ($zero(), $zero());
            while done + STEP <= length {
                // SAFETY: STEP bytes from `done` on are inside, by the loop's condition and the
                // caller's promise; the intrinsics need no alignment. The asm does nothing.
                unsafe {
                    let mut word: $vector = $load(from.add(done).cast());
                    asm!("/* {0} */", inout($register) word, options(nomem, nostack, preserves_flags));
                    $store(to.add(done).cast(), word);
                    first = $add(first, $and(word, low));
                    second = $add(second, $shift::<32>(word));
                }
                done += STEP;
            }
            let mut lanes = [0u64; STEP / 8];
            // SAFETY: the array is as large as the vector.
            unsafe { $store(lanes.as_mut_ptr().cast(), $add(first, second)) };
            // SAFETY: what is left is inside.
            let rest = unsafe { copy_and_sum_words(from.add(done), to.add(done), length - done) };
            lanes.iter().sum::<u64>() + rest
        }
    };
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
copy_and_sum_by!(
    copy_and_sum_sse2,
    "sse2",
    std::arch::x86_64::__m128i,
    xmm_reg,
    _mm_loadu_si128,
    _mm_storeu_si128,
    _mm_setzero_si128,
    _mm_add_epi64,
    _mm_srli_epi64,
    _mm_and_si128,
    _mm_set1_epi64x
);
#[cfg(all(target_arch = "x86_64", not(miri)))]
copy_and_sum_by!(
    copy_and_sum_avx2,
    "avx2",
    std::arch::x86_64::__m256i,
    ymm_reg,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_setzero_si256,
    _mm256_add_epi64,
    _mm256_srli_epi64,
    _mm256_and_si256,
    _mm256_set1_epi64x
);

/// Part of [`copy_and_sum`]. The copy starts and ends with a partial cache line of the target, so
/// that no store between them touches two lines. Mostly no load does either, because drivers lay
/// out transmit and receive buffers alike.
///
/// # Safety
///
/// As there, and the processor has the features.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn copy_and_sum_avx512(from: *const u8, to: *mut u8, length: usize) -> u64 {
    use std::arch::{asm, x86_64::*};
    const STEP: usize = 64;
    let low = _mm512_set1_epi64(0xffff_ffff);
    let (mut first, mut second) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut add = |mut word: __m512i| {
        // SAFETY: it does nothing.
        unsafe {
            asm!("/* {0} */", inout(zmm_reg) word, options(nomem, nostack, preserves_flags));
        }
        first = _mm512_add_epi64(first, _mm512_and_si512(word, low));
        second = _mm512_add_epi64(second, _mm512_srli_epi64::<32>(word));
        word
    };
    // Words of the sum must not be torn.
    let until_line = if to.addr().is_multiple_of(2) {
        (STEP - to.addr() % STEP) % STEP
    } else {
        0
    };
    let mut done = until_line.min(length);
    let some = |count: usize| !(u64::MAX << count);
    if done > 0 {
        let mask = some(done);
        // SAFETY: `done` is less than a step and at most the length, and nothing else is touched.
        unsafe {
            let word = add(_mm512_maskz_loadu_epi8(mask, from.cast()));
            _mm512_mask_storeu_epi8(to.cast(), mask, word);
        }
    }
    while done + STEP <= length {
        // SAFETY: a step from `done` on is inside, by the loop's condition and the caller's
        // promise.
        unsafe {
            let word = add(_mm512_loadu_si512(from.add(done).cast()));
            _mm512_storeu_si512(to.add(done).cast(), word);
        }
        done += STEP;
    }
    if done < length {
        let mask = some(length - done);
        // SAFETY: what is left is less than a step, and nothing else is touched.
        unsafe {
            let word = add(_mm512_maskz_loadu_epi8(mask, from.add(done).cast()));
            _mm512_mask_storeu_epi8(to.add(done).cast(), mask, word);
        }
    }
    let mut lanes = [0u64; STEP / 8];
    // SAFETY: the array is as large as the vector.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), _mm512_add_epi64(first, second)) };
    lanes.iter().sum()
}

/// The rest of [`copy_and_sum`] behind the last vector.
///
/// # Safety
///
/// As there.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn copy_and_sum_words(from: *const u8, to: *mut u8, length: usize) -> u64 {
    let (mut done, mut sum) = (0, 0);
    while done + 8 <= length {
        // SAFETY: as many bytes from `done` on are inside, by the condition and the caller's
        // promise.
        let word: u64 = unsafe { copy_word(from.add(done), to.add(done)) };
        sum += (word & 0xffff_ffff) + (word >> 32);
        done += 8;
    }
    if length & 4 != 0 {
        // SAFETY: fewer than eight bytes are left, and the bit says that four of them are inside.
        sum += u64::from(unsafe { copy_word::<u32>(from.add(done), to.add(done)) });
        done += 4;
    }
    if length & 2 != 0 {
        // SAFETY: likewise for two.
        sum += u64::from(unsafe { copy_word::<u16>(from.add(done), to.add(done)) });
        done += 2;
    }
    if length & 1 != 0 {
        // SAFETY: likewise for one.
        let last = unsafe { copy_word::<u8>(from.add(done), to.add(done)) };
        sum += u64::from(u16::from_ne_bytes([last, 0]));
    }
    sum
}

/// Bytes that are copied at once where a copy is read right away: a load that spans part of a store
/// as wide as a cache line, which is what the C library uses, stalls in store-to-load forwarding.
const CHUNK: usize = 16;

/// As many bytes, in a register.
#[cfg(target_arch = "x86_64")]
type Chunk = std::arch::x86_64::__m128i;
/// As many bytes, in a register.
#[cfg(not(target_arch = "x86_64"))]
type Chunk = u128;

/// Reads bytes that are decided on. The guest may write them meanwhile, so each load is volatile:
/// the compiler can't repeat one, as it may a plain copy's.
///
/// # Safety
///
/// Both are mapped for `length` bytes and don't overlap.
#[inline]
pub(super) unsafe fn read_headers(from: *const u8, to: *mut u8, length: usize) {
    if length < CHUNK {
        // SAFETY: the caller's promise.
        unsafe { copy_words(from, to, length) };
        return;
    }
    let mut at = 0;
    while at + CHUNK < length {
        // SAFETY: the chunk is inside, by the condition.
        unsafe { copy_word::<Chunk>(from.add(at), to.add(at)) };
        at += CHUNK;
    }
    let last = length - CHUNK;
    // SAFETY: it is inside. Bytes of the chunk before that are read again are stored again: only
    // the second ones are seen.
    unsafe { copy_word::<Chunk>(from.add(last), to.add(last)) };
}

/// Writes bytes that are mostly headers.
///
/// # Safety
///
/// Both are mapped for `length` bytes and don't overlap.
#[inline]
pub(super) unsafe fn write_headers(from: *const u8, to: *mut u8, length: usize) {
    if !(CHUNK..=4 * CACHE_LINE).contains(&length) {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from, to, length) };
        return;
    }
    let mut at = 0;
    while at + CHUNK < length {
        // SAFETY: the chunk is inside, by the condition.
        unsafe { ptr::copy_nonoverlapping(from.add(at), to.add(at), CHUNK) };
        at += CHUNK;
    }
    let last = length - CHUNK;
    // SAFETY: it is inside; some of its bytes may be stored again.
    unsafe { ptr::copy_nonoverlapping(from.add(last), to.add(last), CHUNK) };
}

/// Copies fewer than 16 bytes, each of which is loaded once.
///
/// # Safety
///
/// Both are mapped for `length` bytes.
#[inline]
unsafe fn copy_words(from: *const u8, to: *mut u8, length: usize) {
    let mut done = 0;
    // SAFETY: a bit of the length says that as many bytes are left.
    unsafe {
        if length & 8 != 0 {
            copy_word::<u64>(from, to);
            done += 8;
        }
        if length & 4 != 0 {
            copy_word::<u32>(from.add(done), to.add(done));
            done += 4;
        }
        if length & 2 != 0 {
            copy_word::<u16>(from.add(done), to.add(done));
            done += 2;
        }
        if length & 1 != 0 {
            copy_word::<u8>(from.add(done), to.add(done));
        }
    }
}

/// Copies one word, aligned or not, and returns the word stored. The read is volatile, because the
/// compiler might repeat a plain one. If misalignment or the guest tears the word, any value will
/// do.
///
/// # Safety
///
/// Both are mapped for a word.
#[inline]
pub(super) unsafe fn copy_word<T: Copy>(from: *const u8, to: *mut u8) -> T {
    /// A word without alignment.
    #[repr(C, packed)]
    struct Word<T>(T);
    // SAFETY: the caller's promise.
    let Word(word) = unsafe { from.cast::<Word<T>>().read_volatile() };
    // SAFETY: as above.
    unsafe { to.cast::<T>().write_unaligned(word) };
    word
}

/// Copies `length` bytes by way of a local buffer and returns the sum of the words stored. Also under
/// Miri, which knows neither the vector instructions nor `asm!`.
///
/// # Safety
///
/// Both are mapped for `length` bytes.
#[cfg(any(not(target_arch = "x86_64"), miri, test))]
unsafe fn copy_and_sum_plain(from: *const u8, to: *mut u8, length: usize) -> u64 {
    let mut buffer = [0u8; 2048];
    let (mut done, mut sum) = (0, 0u64);
    while done < length {
        let here = (length - done).min(buffer.len());
        // SAFETY: as many bytes are inside, and the buffer is ours.
        unsafe { std::ptr::copy_nonoverlapping(from.add(done), buffer.as_mut_ptr(), here) };
        // The compiler may not read the bytes from the guest's memory again.
        let bytes = &std::hint::black_box(&mut buffer)[..here];
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(done), here) };
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
        done += here;
    }
    sum
}

#[cfg(any(not(target_arch = "x86_64"), miri))]
pub(super) use copy_and_sum_plain as copy_and_sum;

#[cfg(test)]
mod tests {
    use zcnic_device::checksum::Checksum;

    use super::{copy_and_sum, copy_and_sum_plain};

    /// Every length up to several vectors, at places that are aligned and at some that are not.
    #[test]
    fn all_copies_store_and_sum_the_same() {
        let source: Vec<u8> = (0..700u32).map(|at| (at * 37 + at / 256) as u8).collect();
        for length in 0..600 {
            for (from, to) in [(0, 0), (1, 0), (3, 7), (64, 2)] {
                let mut expected = Checksum::new();
                expected.add(&source[from..from + length]);
                for copy in [copy_and_sum, copy_and_sum_plain] {
                    let mut target = vec![0; 700];
                    // SAFETY: both have so many bytes.
                    let stored =
                        unsafe { copy(source[from..].as_ptr(), target[to..].as_mut_ptr(), length) };
                    let mut sum = Checksum::new();
                    sum.add_native(stored, length);
                    assert_eq!(sum.finish(), expected.finish(), "{length} bytes");
                    assert_eq!(target[to..to + length], source[from..from + length]);
                    assert!(target[to + length..].iter().all(|byte| *byte == 0));
                }
            }
        }
    }
}
