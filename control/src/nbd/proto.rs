//! The wire format: numbers, and messages to and from bytes.
//!
//! Everything is big-endian. Parsing never panics: a short or strange message is a `None` or an
//! error, which the caller turns into a refusal.

use super::backend::{ExportInfo, NbdErrno};

/// First thing the server says.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Starts the newstyle handshake, and every option from the client.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Starts every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// `NBD_FLAG_FIXED_NEWSTYLE` and its `NBD_FLAG_C_` twin.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// `NBD_FLAG_NO_ZEROES` and its `NBD_FLAG_C_` twin.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Padding after the answer to `NBD_OPT_EXPORT_NAME`, unless `NO_ZEROES` was agreed.
pub const EXPORT_NAME_PADDING: [u8; 124] = [0; 124];

/// `NBD_OPT_*`.
pub mod option {
    #![allow(missing_docs)]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
}

/// `NBD_REP_*`.
pub mod rep {
    #![allow(missing_docs)]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// `NBD_INFO_*`.
pub mod info {
    #![allow(missing_docs)]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags, `NBD_FLAG_*`.
mod export_flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const ROTATIONAL: u16 = 1 << 4;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// `NBD_CMD_*`.
pub mod cmd {
    #![allow(missing_docs)]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
}

/// `NBD_CMD_FLAG_*`.
pub mod cmd_flag {
    #![allow(missing_docs)]
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// `NBD_REPLY_TYPE_*`.
mod chunk {
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const ERROR: u16 = (1 << 15) + 1;
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
    /// `NBD_REPLY_FLAG_DONE`: every reply here is one chunk, so every chunk carries it.
    pub const FLAG_DONE: u16 = 1 << 0;
}

/// Takes big-endian fields off the front of a message.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}

/// The header of an option from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// [`OPTION_MAGIC`], if the client speaks the protocol.
    pub magic: u64,
    /// Which option, one of [`option`].
    pub option: u32,
    /// How many bytes of data follow.
    pub len: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// Reads the fields, checks nothing.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let mut f = Fields(bytes);
        // The array has room for all of them: the defaults are never used.
        Self {
            magic: f.u64().unwrap_or_default(),
            option: f.u32().unwrap_or_default(),
            len: f.u32().unwrap_or_default(),
        }
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoQuery<'a> {
    /// Which export; empty for the default one.
    pub export: &'a str,
    /// The client wants `NBD_INFO_NAME`.
    pub name: bool,
    /// The client wants `NBD_INFO_DESCRIPTION`.
    pub description: bool,
    /// The client wants `NBD_INFO_BLOCK_SIZE`, and so promises to respect it.
    pub block_size: bool,
}

impl<'a> InfoQuery<'a> {
    /// `None` when the lengths do not add up or the name is not text.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut f = Fields(data);
        let name_len = usize::try_from(f.u32()?).ok()?;
        let export = export_name(f.bytes(name_len)?)?;
        let mut query = Self {
            export,
            name: false,
            description: false,
            block_size: false,
        };
        for _ in 0..f.u16()? {
            match f.u16()? {
                info::NAME => query.name = true,
                info::DESCRIPTION => query.description = true,
                info::BLOCK_SIZE => query.block_size = true,
                _ => {}
            }
        }
        f.0.is_empty().then_some(query)
    }
}

/// An export's name, if the bytes can be one.
pub fn export_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    (name.len() <= super::backend::MAX_NAME_LEN && !name.contains('\0')).then_some(name)
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Bits of [`cmd_flag`].
    pub flags: u16,
    /// One of [`cmd`], or something unknown.
    pub command: u16,
    /// The client's name for the request, which the reply repeats.
    pub handle: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range.
    pub len: u32,
}

impl RequestHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 28;

    /// `Err` gives what stands in the place of the magic number.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, u32> {
        let mut f = Fields(bytes);
        // The array has room for all of them: the defaults are never used.
        let magic = f.u32().unwrap_or_default();
        if magic != REQUEST_MAGIC {
            return Err(magic);
        }
        Ok(Self {
            flags: f.u16().unwrap_or_default(),
            command: f.u16().unwrap_or_default(),
            handle: f.u64().unwrap_or_default(),
            offset: f.u64().unwrap_or_default(),
            len: f.u32().unwrap_or_default(),
        })
    }
}

/// What the client may do with the export.
pub fn transmission_flags(export: &ExportInfo, structured: bool) -> u16 {
    use export_flag::*;
    let writable = !export.read_only;
    [
        (true, HAS_FLAGS),
        (export.read_only, READ_ONLY),
        (export.flush, SEND_FLUSH),
        (export.fua && writable, SEND_FUA),
        (export.rotational, ROTATIONAL),
        (export.trim && writable, SEND_TRIM),
        (export.write_zeroes && writable, SEND_WRITE_ZEROES),
        (structured, SEND_DF),
        (export.multi_conn, CAN_MULTI_CONN),
        (
            export.fast_zero && export.write_zeroes && writable,
            SEND_FAST_ZERO,
        ),
    ]
    .iter()
    .filter(|(on, _)| *on)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// The server's first words.
pub fn put_greeting(out: &mut Vec<u8>) {
    out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
}

/// The answer to `NBD_OPT_EXPORT_NAME`, which has no header.
pub fn put_export_name_answer(out: &mut Vec<u8>, export: &ExportInfo, flags: u16, padded: bool) {
    out.extend_from_slice(&export.size_bytes.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    if padded {
        out.extend_from_slice(&EXPORT_NAME_PADDING);
    }
}

/// One reply to an option; `data` is given in pieces to spare the caller from joining them.
pub fn put_option_reply(out: &mut Vec<u8>, option: u32, reply: u32, data: &[&[u8]]) {
    let len: usize = data.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    out.extend_from_slice(&length_u32(len).to_be_bytes());
    for part in data {
        out.extend_from_slice(part);
    }
}

/// A simple reply; the payload of a read follows it.
pub fn put_simple_reply(out: &mut Vec<u8>, handle: u64, error: u32) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&handle.to_be_bytes());
}

/// A structured reply that says "done, without data".
pub fn put_none_chunk(out: &mut Vec<u8>, handle: u64) {
    put_chunk_header(out, chunk::NONE, handle, 0);
}

/// The head of a structured reply with a read's data, which follows it.
pub fn put_data_chunk(out: &mut Vec<u8>, handle: u64, offset: u64, len: u32) {
    put_chunk_header(out, chunk::OFFSET_DATA, handle, len.saturating_add(8));
    out.extend_from_slice(&offset.to_be_bytes());
}

/// A structured reply with an error, its text, and where in the export it happened, if anywhere.
pub fn put_error_chunk(
    out: &mut Vec<u8>,
    handle: u64,
    errno: NbdErrno,
    text: &str,
    offset: Option<u64>,
) {
    let text = text
        .as_bytes()
        .get(..MAX_TEXT_LEN)
        .unwrap_or(text.as_bytes());
    let (kind, tail) = match offset {
        Some(_) => (chunk::ERROR_OFFSET, 8),
        None => (chunk::ERROR, 0),
    };
    put_chunk_header(out, kind, handle, length_u32(6 + text.len() + tail));
    out.extend_from_slice(&errno.code().to_be_bytes());
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text);
    if let Some(offset) = offset {
        out.extend_from_slice(&offset.to_be_bytes());
    }
}

/// Texts are short constants of this server; the bound keeps the 16-bit length true.
const MAX_TEXT_LEN: usize = 1024;

fn put_chunk_header(out: &mut Vec<u8>, kind: u16, handle: u64, len: u32) {
    out.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&chunk::FLAG_DONE.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&handle.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
}

/// Lengths of what this server composes are far below 4 GiB.
fn length_u32(len: usize) -> u32 {
    debug_assert!(len < MAX_COMPOSED_LEN);
    u32::try_from(len).unwrap_or(u32::MAX)
}

const MAX_COMPOSED_LEN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_header() {
        let mut bytes = [0u8; RequestHeader::LEN];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[5] = 1;
        bytes[7] = 6;
        bytes[15] = 9;
        bytes[23] = 8;
        bytes[27] = 7;
        let header = RequestHeader::parse(&bytes).unwrap();
        let expected = RequestHeader {
            flags: cmd_flag::FUA,
            command: cmd::WRITE_ZEROES,
            handle: 9,
            offset: 8,
            len: 7,
        };
        assert_eq!(header, expected);
        bytes[0] = 0xff;
        assert_eq!(RequestHeader::parse(&bytes), Err(0xff60_9513));
    }

    #[test]
    fn info_query_accepts_only_lengths_that_add_up() {
        let good = b"\0\0\0\x03abc\0\x02\0\x03\0\x01";
        let query = InfoQuery::parse(good).unwrap();
        assert_eq!(query.export, "abc");
        assert!(query.block_size && query.name && !query.description);
        for cut in 0..good.len() {
            assert_eq!(InfoQuery::parse(&good[..cut]), None, "cut at {cut}");
        }
        let long = [good.as_slice(), b"x"].concat();
        assert_eq!(InfoQuery::parse(&long), None);
        assert_eq!(InfoQuery::parse(b"\xff\xff\xff\xffabc\0\0"), None);
        assert_eq!(InfoQuery::parse(b"\0\0\0\x01\xff\0\0"), None, "not UTF-8");
        assert_eq!(
            InfoQuery::parse(b"\0\0\0\x01\0\0\0"),
            None,
            "a NUL in the name"
        );
    }

    #[test]
    fn error_chunk_lengths() {
        let mut out = Vec::new();
        put_error_chunk(&mut out, 1, NbdErrno::Io, "bad", Some(4096));
        assert_eq!(out.len(), 20 + 6 + 3 + 8);
        assert_eq!(out[16..20], 17u32.to_be_bytes());
        assert_eq!(out[24..26], 3u16.to_be_bytes());
        assert_eq!(out[29..], 4096u64.to_be_bytes());
    }

    #[test]
    fn a_read_only_export_offers_nothing_that_writes() {
        let mut export = ExportInfo::new("a", 1);
        (export.trim, export.write_zeroes, export.fua) = (true, true, true);
        (export.fast_zero, export.read_only) = (true, true);
        assert_eq!(transmission_flags(&export, false), 0b11);
        assert_eq!(transmission_flags(&export, true), 0b1000_0011);
    }
}
