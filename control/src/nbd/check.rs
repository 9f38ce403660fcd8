//! Decides whether a request may go to the backend.

use super::backend::{ExportInfo, NbdErrno, Op};
use super::proto::{RequestHeader, cmd, cmd_flag};

/// Why a request is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the program.
    pub errno: NbdErrno,
    /// For people; sent in structured replies.
    pub text: &'static str,
}

impl From<NbdErrno> for Refusal {
    fn from(errno: NbdErrno) -> Self {
        let text = match errno {
            NbdErrno::Perm => "operation not permitted",
            NbdErrno::Io => "the device failed or did not answer",
            NbdErrno::NoMem => "out of memory",
            NbdErrno::Inval => "invalid request",
            NbdErrno::NoSpc => "no space left on the device",
            NbdErrno::Overflow => "request too large",
            NbdErrno::NotSup => "operation not supported",
            NbdErrno::Shutdown => "the server is shutting down",
        };
        Self { errno, text }
    }
}

const fn refuse<T>(errno: NbdErrno, text: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, text })
}

/// What a command number asks for, whether or not the export supports it.
pub const fn op_of(command: u16) -> Option<Op> {
    match command {
        cmd::READ => Some(Op::Read),
        cmd::WRITE => Some(Op::Write),
        cmd::FLUSH => Some(Op::Flush),
        cmd::TRIM => Some(Op::Trim),
        cmd::WRITE_ZEROES => Some(Op::WriteZeroes),
        _ => None,
    }
}

/// Checks a request against what the export promised.
///
/// A length of zero is refused for everything but a flush: the specification leaves it open, and
/// a structured reply could not carry an empty piece of data.
pub fn check(r: &RequestHeader, export: &ExportInfo, structured: bool) -> Result<Op, Refusal> {
    let Some(op) = op_of(r.command) else {
        return refuse(NbdErrno::Inval, "command not supported");
    };
    check_allowed(op, export)?;
    check_flags(op, r.flags, export, structured)?;
    if op == Op::Flush {
        return match (r.offset, r.len) {
            (0, 0) => Ok(op),
            _ => refuse(NbdErrno::Inval, "a flush has neither offset nor length"),
        };
    }
    check_range(op, r, export)?;
    check_size(op, r, export)?;
    Ok(op)
}

fn check_allowed(op: Op, export: &ExportInfo) -> Result<(), Refusal> {
    let (supported, writes) = match op {
        Op::Read => (true, false),
        Op::Write => (true, true),
        Op::Flush => (export.flush, false),
        Op::Trim => (export.trim, true),
        Op::WriteZeroes => (export.write_zeroes, true),
    };
    if writes && export.read_only {
        return refuse(NbdErrno::Perm, "the export is read-only");
    }
    if !supported {
        return refuse(NbdErrno::Inval, "the export does not support this command");
    }
    Ok(())
}

fn check_flags(op: Op, flags: u16, export: &ExportInfo, structured: bool) -> Result<(), Refusal> {
    let mut allowed = match op {
        Op::Read if structured => cmd_flag::DF,
        Op::WriteZeroes if export.fast_zero => cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
        Op::WriteZeroes => cmd_flag::NO_HOLE,
        Op::Read | Op::Write | Op::Flush | Op::Trim => 0,
    };
    // Clients are known to set it on commands that do not write, where it means nothing.
    if export.fua {
        allowed |= cmd_flag::FUA;
    }
    if flags & !allowed != 0 {
        return refuse(NbdErrno::Inval, "a command flag is not allowed here");
    }
    Ok(())
}

fn check_range(op: Op, r: &RequestHeader, export: &ExportInfo) -> Result<(), Refusal> {
    if r.len == 0 {
        return refuse(NbdErrno::Inval, "length is zero");
    }
    let block = u64::from(export.min_block);
    if !r.offset.is_multiple_of(block) || !u64::from(r.len).is_multiple_of(block) {
        return refuse(
            NbdErrno::Inval,
            "offset or length is not a multiple of the minimum block size",
        );
    }
    let inside = r
        .offset
        .checked_add(u64::from(r.len))
        .is_some_and(|end| end <= export.size_bytes);
    match op {
        _ if inside => Ok(()),
        Op::Write | Op::WriteZeroes => refuse(NbdErrno::NoSpc, "write past the end of the export"),
        Op::Read | Op::Trim | Op::Flush => {
            refuse(NbdErrno::Inval, "range reaches past the end of the export")
        }
    }
}

fn check_size(op: Op, r: &RequestHeader, export: &ExportInfo) -> Result<(), Refusal> {
    if !matches!(op, Op::Read | Op::Write) || r.len <= export.max_block {
        return Ok(());
    }
    // The specification asks for this errno where fragmenting would have been an answer.
    let errno = match r.flags & cmd_flag::DF {
        0 => NbdErrno::Inval,
        _ => NbdErrno::Overflow,
    };
    refuse(errno, "length is larger than the maximum block size")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> ExportInfo {
        ExportInfo {
            trim: true,
            write_zeroes: true,
            ..ExportInfo::new("x", 8 << 20)
        }
    }

    fn request(command: u16, flags: u16, offset: u64, len: u32) -> RequestHeader {
        RequestHeader {
            flags,
            command,
            handle: 1,
            offset,
            len,
        }
    }

    fn errno(r: RequestHeader, export: &ExportInfo) -> Option<NbdErrno> {
        check(&r, export, true).err().map(|refusal| refusal.errno)
    }

    #[test]
    fn ranges() {
        use NbdErrno::{Inval, NoSpc, Overflow};
        let export = export();
        let end = export.size_bytes;
        let cases = [
            (cmd::READ, 0, 0, 4096, None),
            (cmd::READ, 0, end - 512, 512, None),
            (cmd::READ, 0, end - 512, 1024, Some(Inval)),
            (cmd::READ, 0, u64::MAX - 511, 512, Some(Inval)),
            (cmd::READ, 0, u64::MAX - 511, 4096, Some(Inval)),
            (cmd::READ, 0, 1, 512, Some(Inval)),
            (cmd::READ, 0, 0, 0, Some(Inval)),
            (cmd::READ, 0, 0, (1 << 20) + 512, Some(Inval)),
            (cmd::READ, cmd_flag::DF, 0, (1 << 20) + 512, Some(Overflow)),
            (cmd::READ, cmd_flag::DF, 0, 65536, None),
            (cmd::WRITE, 0, end, 512, Some(NoSpc)),
            (cmd::WRITE, 0, 0, 511, Some(Inval)),
            (cmd::TRIM, 0, end, 512, Some(Inval)),
            (cmd::TRIM, 0, 0, 8 << 20, None),
            (cmd::WRITE_ZEROES, cmd_flag::NO_HOLE, 0, 8 << 20, None),
            (cmd::WRITE_ZEROES, 0, 512, 8 << 20, Some(NoSpc)),
        ];
        for (command, flags, offset, len, expected) in cases {
            let r = request(command, flags, offset, len);
            assert_eq!(errno(r, &export), expected, "{r:?}");
        }
    }

    #[test]
    fn what_was_not_offered_is_refused() {
        use NbdErrno::{Inval, Perm};
        let export = export();
        for command in [2, 5, 7, 8, 0xffff, cmd::FLUSH] {
            assert_eq!(errno(request(command, 0, 0, 0), &export), Some(Inval));
        }
        for flags in [cmd_flag::FUA, cmd_flag::DF, cmd_flag::NO_HOLE, 1 << 15] {
            assert_eq!(
                errno(request(cmd::WRITE, flags, 0, 512), &export),
                Some(Inval)
            );
        }
        let fast = cmd_flag::FAST_ZERO;
        assert_eq!(
            errno(request(cmd::WRITE_ZEROES, fast, 0, 512), &export),
            Some(Inval)
        );
        let plain_df = check(&request(cmd::READ, cmd_flag::DF, 0, 512), &export, false);
        assert!(plain_df.is_err(), "DF needs structured replies");
        let read_only = ExportInfo {
            read_only: true,
            ..export
        };
        for command in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
            assert_eq!(errno(request(command, 0, 0, 512), &read_only), Some(Perm));
        }
    }

    #[test]
    fn flush_and_fua_where_offered() {
        let export = ExportInfo {
            flush: true,
            fua: true,
            ..export()
        };
        assert_eq!(errno(request(cmd::FLUSH, 0, 0, 0), &export), None);
        assert_eq!(
            errno(request(cmd::FLUSH, 0, 512, 0), &export),
            Some(NbdErrno::Inval)
        );
        for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
            assert_eq!(
                errno(request(command, cmd_flag::FUA, 0, 512), &export),
                None
            );
        }
    }
}
