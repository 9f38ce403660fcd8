//! The callers' memory: buffers that reads are copied into and writes are transmitted from.
//!
//! This file, with the DPDK port, is where the data plane is `unsafe`. The contract is in one
//! place: whoever makes an [`Sgl`] vouches for the memory until the I/O's completion is fetched.

use std::ptr::NonNull;

/// A piece of memory: an address and a length in bytes. Shape of `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Iovec {
    /// First byte.
    pub base: *mut u8,
    /// Bytes.
    pub len: usize,
}

/// The memory of one I/O.
#[derive(Clone, Copy, Debug)]
pub struct Sgl {
    kind: Kind,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    One(NonNull<u8>),
    Many { iov: NonNull<Iovec>, count: u32 },
    Zeroes,
    Discard,
}

// SAFETY: an Sgl is an address and a length; the maker has promised that the memory may be used
// from the core that the I/O is submitted on until its completion.
unsafe impl Send for Sgl {}

impl Sgl {
    /// No memory: a flush, a trim.
    pub const NONE: Self = Self {
        kind: Kind::None,
        len: 0,
    };

    /// `len` bytes at `base`.
    ///
    /// # Safety
    /// The memory is valid, and nobody else writes to it (for a read: nor reads from it), until
    /// the completion of the I/O has been fetched.
    #[must_use]
    pub const unsafe fn one(base: NonNull<u8>, len: u32) -> Self {
        Self {
            kind: Kind::One(base),
            len,
        }
    }

    /// The pieces of an array of `count` vectors, which is read when it is needed, not now.
    ///
    /// # Safety
    /// As for [`Self::one`], for the array and for each piece.
    #[must_use]
    pub unsafe fn many(iov: NonNull<Iovec>, count: u32) -> Self {
        let mut len = 0_usize;
        for i in 0..count as usize {
            // SAFETY: the caller vouches for the array.
            len = len.saturating_add(unsafe { (*iov.as_ptr().add(i)).len });
        }
        Self {
            kind: Kind::Many { iov, count },
            len: len.min(u32::MAX as usize) as u32,
        }
    }

    /// `len` zero bytes to write.
    #[must_use]
    pub const fn zeroes(len: u32) -> Self {
        Self {
            kind: Kind::Zeroes,
            len,
        }
    }

    /// Reads `len` bytes and looks at none of them: for measuring.
    #[must_use]
    pub const fn discard(len: u32) -> Self {
        Self {
            kind: Kind::Discard,
            len,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no memory at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a write with it sends zeroes.
    pub(crate) const fn is_zeroes(&self) -> bool {
        matches!(self.kind, Kind::Zeroes)
    }

    /// Copies `bytes` to `offset`; what does not fit is left out.
    #[inline]
    pub(crate) fn write(&self, offset: u32, bytes: &[u8]) {
        match self.kind {
            Kind::One(base) => {
                let n = bytes.len().min(self.len.saturating_sub(offset) as usize);
                if n == 0 {
                    return;
                }
                // SAFETY: offset + n <= len, which the maker of the Sgl vouches for; the source is
                // a received frame, which is no memory of a caller's.
                unsafe {
                    let to = base.as_ptr().add(offset as usize);
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, n);
                }
            }
            Kind::Many { .. } => {
                let mut rest = bytes;
                self.pieces(offset, bytes.len(), |piece, n| {
                    // SAFETY: `pieces` stays within the pieces that the maker vouches for.
                    unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), piece, n) };
                    rest = &rest[n..];
                });
            }
            Kind::None | Kind::Zeroes | Kind::Discard => {}
        }
    }

    /// Fills `out` from `offset` on; what the Sgl does not have becomes zeroes.
    pub(crate) fn read(&self, offset: u32, out: &mut [u8]) {
        let mut at = 0;
        let want = out.len();
        self.pieces(offset, want, |piece, n| {
            // SAFETY: `pieces` stays within the memory that the maker vouches for.
            unsafe { std::ptr::copy_nonoverlapping(piece, out[at..at + n].as_mut_ptr(), n) };
            at += n;
        });
        out[at..].fill(0);
    }

    /// `len` bytes at `offset` as one piece, if they are in one.
    #[inline]
    pub(crate) fn contiguous(&self, offset: u32, len: u32) -> Option<NonNull<u8>> {
        match self.kind {
            Kind::One(base) if offset.checked_add(len)? <= self.len => {
                // SAFETY: within the memory that the maker vouches for.
                Some(unsafe { base.add(offset as usize) })
            }
            Kind::Many { .. } => {
                let mut found = None;
                self.pieces(offset, len as usize, |piece, n| {
                    if found.is_none() {
                        found = Some((piece, n));
                    }
                });
                let (piece, n) = found?;
                if n == len as usize {
                    NonNull::new(piece)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    /// Calls `f` with each piece of `len` bytes from `offset` on.
    fn pieces(&self, offset: u32, len: usize, mut f: impl FnMut(*mut u8, usize)) {
        let one;
        let (iov, count) = match self.kind {
            Kind::One(base) => {
                one = Iovec {
                    base: base.as_ptr(),
                    len: self.len as usize,
                };
                (&raw const one, 1)
            }
            Kind::Many { iov, count } => (iov.as_ptr().cast_const(), count as usize),
            Kind::None | Kind::Zeroes | Kind::Discard => return,
        };
        let (mut skip, mut left) = (offset as usize, len);
        for i in 0..count {
            // SAFETY: `count` vectors, which the maker vouches for.
            let piece = unsafe { *iov.add(i) };
            if skip >= piece.len {
                skip -= piece.len;
                continue;
            }
            let n = left.min(piece.len - skip);
            if n == 0 {
                return;
            }
            // SAFETY: skip < piece.len.
            f(unsafe { piece.base.add(skip) }, n);
            (left, skip) = (left - n, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iov(pieces: &mut [Vec<u8>]) -> Vec<Iovec> {
        pieces
            .iter_mut()
            .map(|p| Iovec {
                base: p.as_mut_ptr(),
                len: p.len(),
            })
            .collect()
    }

    #[test]
    fn scatters_and_gathers_across_pieces() {
        let mut pieces = vec![vec![0; 3], vec![0; 0], vec![0; 5]];
        let mut v = iov(&mut pieces);
        // SAFETY: the vectors live to the end of the test.
        let sgl = unsafe { Sgl::many(NonNull::new(v.as_mut_ptr()).unwrap(), 3) };
        assert_eq!(sgl.len(), 8);
        sgl.write(1, &[1, 2, 3, 4]);
        let mut out = [9; 9];
        sgl.read(0, &mut out);
        assert_eq!(out, [0, 1, 2, 3, 4, 0, 0, 0, 0]);
        assert!(sgl.contiguous(1, 2).is_some());
        assert!(sgl.contiguous(2, 2).is_none());
        assert!(sgl.contiguous(3, 5).is_some());
        sgl.write(6, &[7; 100]);
        assert_eq!(
            (pieces[0].as_slice(), pieces[2].as_slice()),
            (&[0, 1, 2][..], &[3, 4, 0, 7, 7][..])
        );
    }

    #[test]
    fn one_piece_never_overruns() {
        let mut bytes = vec![0_u8; 8];
        // SAFETY: the vector lives to the end of the test.
        let sgl = unsafe { Sgl::one(NonNull::new(bytes.as_mut_ptr()).unwrap(), 4) };
        sgl.write(2, &[1; 100]);
        sgl.write(200, &[1; 100]);
        assert_eq!(bytes, [0, 0, 1, 1, 0, 0, 0, 0]);
        assert!(sgl.contiguous(2, 3).is_none());
    }
}
