//! The seam between the NBD server and what stores the bytes.
//!
//! The server knows sockets and the protocol; a [`Backend`] knows exports and how to do I/O on
//! them. Payload memory belongs to the backend (DPDK memory in production), so that a write goes
//! from the socket to the network card's memory with one copy and no allocation.
//!
//! The contract, in the order things happen:
//!
//! 1. [`Session::alloc`] may wait: that stops the server from reading the socket, which is the
//!    back-pressure the client feels.
//! 2. [`Session::submit`] moves the [`Request`], with its buffer, to the backend. From here the
//!    buffer is the backend's until it puts it into the [`Reply`].
//! 3. Every submitted request is answered exactly once through [`Session::replies`], in any order,
//!    even when the device is gone (then with an error).
//! 4. The server drops a session only after every request it submitted has been answered, also
//!    when the client died in the middle.

use std::future::Future;

use thiserror::Error;

/// Memory for the payload of one request, from the export's own pool.
///
/// Dropping it gives it back to the pool.
pub trait Buffer: Send + 'static {
    /// The payload; exactly as long as was asked of [`Session::alloc`].
    fn as_slice(&self) -> &[u8];
    /// The payload, to be filled.
    fn as_mut_slice(&mut self) -> &mut [u8];
}

/// What an export can do, as told to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name a client asks for; at most [`MAX_NAME_LEN`] bytes.
    pub name: String,
    /// Free text for people, may be empty; at most [`MAX_NAME_LEN`] bytes.
    pub description: String,
    /// Size of the export.
    pub size_bytes: u64,
    /// Refuse everything that writes.
    pub read_only: bool,
    /// `Flush` is supported.
    pub flush: bool,
    /// `fua` on writing requests is honoured.
    pub fua: bool,
    /// `Trim` is supported.
    pub trim: bool,
    /// `WriteZeroes` is supported.
    pub write_zeroes: bool,
    /// `fast_zero` is supported: fail with [`NbdErrno::NotSup`] rather than write zeroes slowly.
    pub fast_zero: bool,
    /// A flush on one connection covers writes answered on any other.
    pub multi_conn: bool,
    /// The medium prefers sequential access.
    pub rotational: bool,
    /// Offsets and lengths must be multiples of this; a power of two, at most 64 KiB.
    pub min_block: u32,
    /// The client should use multiples of this; a power of two, at least 512.
    pub preferred_block: u32,
    /// Largest payload of one read or write; a multiple of `min_block`, at most
    /// [`MAX_PAYLOAD`].
    pub max_block: u32,
}

/// Longest name or description, from the NBD specification's limit on strings.
pub const MAX_NAME_LEN: usize = 4096;

/// Largest payload the server takes in; a write that announces more closes the connection.
pub const MAX_PAYLOAD: u32 = 64 << 20;

impl ExportInfo {
    /// A writable export with every optional feature off and 512 B / 4 KiB / 1 MiB block sizes.
    pub fn new(name: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            size_bytes,
            read_only: false,
            flush: false,
            fua: false,
            trim: false,
            write_zeroes: false,
            fast_zero: false,
            multi_conn: false,
            rotational: false,
            min_block: 512,
            preferred_block: 4096,
            max_block: 1 << 20,
        }
    }

    /// What in this description breaks the protocol's rules, if anything does.
    ///
    /// The server refuses to open such an export rather than confuse a client.
    pub fn fault(&self) -> Option<&'static str> {
        if self.name.len() > MAX_NAME_LEN || self.description.len() > MAX_NAME_LEN {
            Some("name or description is longer than 4096 bytes")
        } else if !self.min_block.is_power_of_two() || self.min_block > 1 << 16 {
            Some("min_block is not a power of two of at most 64 KiB")
        } else if !self.preferred_block.is_power_of_two()
            || self.preferred_block < self.min_block.max(512)
        {
            Some("preferred_block is not a power of two of at least 512 and min_block")
        } else if self.max_block < self.preferred_block || self.max_block > MAX_PAYLOAD {
            Some("max_block is not between preferred_block and 64 MiB")
        } else if !self.max_block.is_multiple_of(self.min_block) {
            Some("max_block is not a multiple of min_block")
        } else {
            None
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill `buffer` from the export.
    Read,
    /// Store `buffer`.
    Write,
    /// Make every write answered so far durable; offset and length are 0.
    Flush,
    /// The range is no longer needed; `len` may exceed `max_block`, the backend splits.
    Trim,
    /// Make the range read as zeroes; `len` may exceed `max_block`, the backend splits.
    WriteZeroes,
}

/// One request, already checked: aligned to `min_block`, inside the export, not larger than
/// `max_block` where it has a payload, and allowed on the export.
#[derive(Debug)]
pub struct Request<B> {
    /// Comes back in the [`Reply`]; unique among the session's unanswered requests.
    pub cookie: u64,
    /// What to do.
    pub op: Op,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range in bytes.
    pub len: u32,
    /// Answer only when the data is durable.
    pub fua: bool,
    /// `WriteZeroes` must leave the range allocated.
    pub no_hole: bool,
    /// `WriteZeroes` must fail with [`NbdErrno::NotSup`] where it would be as slow as a write.
    pub fast_zero: bool,
    /// Payload memory: to be filled for `Read`, to be stored for `Write`, else `None`.
    pub buffer: Option<B>,
}

/// The answer to one [`Request`].
#[derive(Debug)]
pub struct Reply<B> {
    /// The request's cookie.
    pub cookie: u64,
    /// How it went.
    pub result: Result<(), NbdErrno>,
    /// The request's buffer. A successful `Read` must give it back, filled; for every other reply
    /// it may as well go back to its pool in the backend.
    pub buffer: Option<B>,
}

/// The errors that the protocol can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u32)]
pub enum NbdErrno {
    /// The export does not allow it.
    #[error("operation not permitted")]
    Perm = 1,
    /// The device failed, or did not answer.
    #[error("input/output error")]
    Io = 5,
    /// No memory.
    #[error("cannot allocate memory")]
    NoMem = 12,
    /// The request makes no sense.
    #[error("invalid argument")]
    Inval = 22,
    /// No room, also for a write past the end.
    #[error("no space left on device")]
    NoSpc = 28,
    /// Too large to answer in one piece.
    #[error("value too large")]
    Overflow = 75,
    /// Not supported, above all a fast zeroing that would be slow.
    #[error("operation not supported")]
    NotSup = 95,
    /// The server is going away.
    #[error("server is shutting down")]
    Shutdown = 108,
}

impl NbdErrno {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// Why an export could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// There is no such export.
    #[error("export {0:?} does not exist")]
    Unknown(String),
    /// It exists, but cannot be used now.
    #[error("export {name:?} is not available: {reason}")]
    Unavailable {
        /// The export's name.
        name: String,
        /// Why, for people.
        reason: String,
    },
}

/// One export, opened for one connection.
///
/// `Sync`, because one connection waits for replies while it reads further requests.
pub trait Session: Send + Sync + 'static {
    /// Payload memory.
    type Buffer: Buffer;

    /// Waits for payload memory of exactly `len` bytes, at most `max_block`.
    ///
    /// An error refuses the request with that errno. Must be safe to cancel: a future dropped
    /// before it is ready takes no memory with it.
    fn alloc(&self, len: usize) -> impl Future<Output = Result<Self::Buffer, NbdErrno>> + Send;

    /// Hands over a request; never blocks. `Err` gives the request back when the queue is full:
    /// the server tries again a little later.
    fn submit(&self, request: Request<Self::Buffer>) -> Result<(), Request<Self::Buffer>>;

    /// Waits for at least one reply and appends all that are ready.
    ///
    /// Must be safe to cancel: replies are appended only by the poll that returns ready. At most
    /// one such future exists at a time for a session.
    fn replies(&self, out: &mut Vec<Reply<Self::Buffer>>) -> impl Future<Output = ()> + Send;
}

/// The exports of the appliance.
pub trait Backend: Send + Sync + 'static {
    /// One export, opened.
    type Session: Session;

    /// All exports, in the order to show them.
    fn list(&self) -> Vec<ExportInfo>;

    /// Opens an export for one connection. Must not block for long: it runs on the server's
    /// runtime thread.
    fn open(&self, name: &str) -> Result<(ExportInfo, Self::Session), OpenError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_an_export_are_named() {
        let good = ExportInfo::new("a", 1 << 20);
        assert_eq!(good.fault(), None);
        for min_block in [0, 3, 1 << 17] {
            assert!(
                ExportInfo {
                    min_block,
                    ..good.clone()
                }
                .fault()
                .is_some()
            );
        }
        for preferred_block in [0, 256, 4097] {
            assert!(
                ExportInfo {
                    preferred_block,
                    ..good.clone()
                }
                .fault()
                .is_some()
            );
        }
        for max_block in [0, 512, (1 << 20) + 1, MAX_PAYLOAD + 512] {
            assert!(
                ExportInfo {
                    max_block,
                    ..good.clone()
                }
                .fault()
                .is_some()
            );
        }
        assert!(
            ExportInfo {
                name: "x".repeat(5000),
                ..good
            }
            .fault()
            .is_some()
        );
    }
}
