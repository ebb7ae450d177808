//! Texts and arrays that C lends: the only place where its pointers are read.
#![expect(unsafe_code, reason = "pointer and length become a slice")]

use std::marker::PhantomData;

use crate::error::{Outcome, bge_error};

/// A borrowed text: UTF-8, of a length, without a NUL at its end. An empty one may have data of NULL.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct bge_str<'a> {
    /// The first byte.
    data: *const u8,
    /// How many bytes.
    len: usize,
    lent: PhantomData<&'a str>,
}

impl<'a> bge_str<'a> {
    /// A text of Rust's.
    pub fn of(text: &'a str) -> Self {
        Self {
            data: text.as_ptr(),
            len: text.len(),
            lent: PhantomData,
        }
    }

    /// A text as a hostile caller may write it, for tests: a pointer and a length that need not belong together.
    ///
    /// # Safety
    /// `data` is NULL, or `len` is more than any allocation has, or `data` holds `len` bytes for `'a`.
    pub unsafe fn from_raw(data: *const u8, len: usize) -> Self {
        Self {
            data,
            len,
            lent: PhantomData,
        }
    }

    /// The bytes, if pointer and length can be true.
    fn bytes(self, parameter: &str) -> Outcome<&'a [u8]> {
        // SAFETY: a `bge_str` comes from `of`, or from C, which promises that its bytes live through the call.
        unsafe { slice(self.data, self.len, parameter) }
    }

    /// The text, if it is UTF-8.
    pub(crate) fn text(self, parameter: &str) -> Outcome<&'a str> {
        std::str::from_utf8(self.bytes(parameter)?).map_err(|error| {
            let message = format!(
                "not UTF-8 from byte {} on; convert the text first",
                error.valid_up_to()
            );
            bge_error::argument(parameter, message)
        })
    }
}

/// A slice of C's, if pointer and length can be true. Without items the pointer does not matter.
///
/// # Safety
/// If `data` is neither NULL nor misaligned and `len` items fit into an allocation, then they are there for `'a`.
unsafe fn slice<'a, T>(data: *const T, len: usize, parameter: &str) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check(data, len, parameter)?;
    // SAFETY: not NULL, aligned and of a possible size; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

fn check<T>(data: *const T, len: usize, parameter: &str) -> Outcome {
    if data.is_null() {
        return Err(bge_error::null(parameter));
    }
    if !data.is_aligned() {
        return Err(bge_error::argument(parameter, "the pointer is not aligned"));
    }
    if len
        .checked_mul(size_of::<T>())
        .is_none_or(|bytes| isize::try_from(bytes).is_err())
    {
        let message = format!("a length of {len} is more than memory can hold");
        return Err(bge_error::argument(parameter, message));
    }
    Ok(())
}

/// The texts of an array.
///
/// # Safety
/// C's promise: if `first` and `count` can be true, `count` texts are there through the call.
pub(crate) unsafe fn texts<'a>(
    first: *const bge_str<'a>,
    count: usize,
    parameter: &str,
) -> Outcome<Vec<&'a str>> {
    // SAFETY: as above.
    let items = unsafe { slice(first, count, parameter) }?;
    items.iter().map(|item| item.text(parameter)).collect()
}

/// Bytes that C lends.
///
/// # Safety
/// C's promise: if `first` and `len` can be true, `len` bytes are there through the call.
pub(crate) unsafe fn bytes<'a>(first: *const u8, len: usize, parameter: &str) -> Outcome<&'a [u8]> {
    // SAFETY: as above.
    unsafe { slice(first, len, parameter) }
}

/// Copies numbers into a buffer of C's that has room for `room` of them.
///
/// # Safety
/// C's promise: a buffer that is not NULL has that room.
pub(crate) unsafe fn fill(out: *mut f32, room: usize, values: &[f32], parameter: &str) -> Outcome {
    fits(room, values.len(), parameter)?;
    if values.is_empty() {
        return Ok(());
    }
    check(out.cast_const(), values.len(), parameter)?;
    // SAFETY: C promises room for `room` numbers, and there are no more; nothing of ours overlaps a buffer of C's.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), out, values.len()) };
    Ok(())
}

/// Refuses a buffer that is too small, before the work is done.
pub(crate) fn fits(room: usize, needed: usize, parameter: &str) -> Outcome {
    if room < needed {
        let message = format!("has room for {room} numbers, {needed} are needed");
        return Err(bge_error::argument(parameter, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::bge_status;

    fn raw(data: *const u8, len: usize) -> bge_str<'static> {
        // SAFETY: the tests below keep the promise.
        unsafe { bge_str::from_raw(data, len) }
    }

    #[test]
    fn impossible_pointers_and_lengths_are_refused_unread() {
        let status = |text: bge_str<'_>| text.text("text").unwrap_err().status;
        assert_eq!(status(raw(std::ptr::null(), 1)), bge_status::NullPointer);
        for len in [usize::MAX, usize::MAX / 2 + 1] {
            assert_eq!(status(raw(b"x".as_ptr(), len)), bge_status::InvalidArgument);
        }
        assert_eq!(status(raw(b"\xff".as_ptr(), 1)), bge_status::InvalidArgument);
        assert_eq!(raw(std::ptr::null(), 0).text("text").unwrap(), "");
        assert_eq!(bge_str::of("é\0x").text("text").unwrap(), "é\0x");
    }

    #[test]
    fn arrays_are_read_to_their_count() {
        let items = [bge_str::of("a"), bge_str::of(""), bge_str::of("c")];
        // SAFETY: the counts are true, or more than memory holds.
        let read = |first, count| unsafe { texts(first, count, "texts") };
        assert_eq!(read(items.as_ptr(), 3).unwrap(), ["a", "", "c"]);
        assert!(read(std::ptr::null(), 0).unwrap().is_empty());
        let status = |first, count| read(first, count).unwrap_err().status;
        assert_eq!(status(std::ptr::null(), 1), bge_status::NullPointer);
        for count in [usize::MAX, usize::MAX / 8] {
            assert_eq!(status(items.as_ptr(), count), bge_status::InvalidArgument);
        }
        let odd = items.as_ptr().wrapping_byte_add(1);
        assert_eq!(status(odd, 1), bge_status::InvalidArgument);
    }

    #[test]
    fn a_buffer_is_filled_whole_or_not_at_all() {
        let mut buffer = [7.0_f32; 3];
        let place = buffer.as_mut_ptr();
        // SAFETY: no room is said to be larger than it is.
        let filled = |out, room, values: &[f32]| unsafe { fill(out, room, values, "out") }.is_ok();
        assert!(!filled(place, 1, &[1.0, 2.0]));
        assert!(!filled(std::ptr::null_mut(), 3, &[1.0]));
        assert!(filled(std::ptr::null_mut(), 0, &[]));
        assert!(filled(place, 2, &[1.0, 2.0]));
        assert_eq!(buffer, [1.0, 2.0, 7.0]);
    }
}
