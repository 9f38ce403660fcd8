//! The transmission phase of one connection: requests in, replies out, and the end.
//!
//! One task runs both halves. The reading half stops at the first thing that ends the requests;
//! the writing half then sends what the backend still owes. Whatever happens to the client, the
//! backend's session is dropped only after it has answered everything.

use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::sleep;

use super::backend::{Buffer, ExportInfo, MAX_PAYLOAD, NbdErrno, Op, Request, Session};
use super::check::{check, op_of};
use super::error::ConnectionError;
use super::handshake::{Agreed, skip};
use super::inflight::{InFlight, Pending};
use super::proto::{RequestHeader, cmd, cmd_flag};
use super::replies::{drain, write_replies};
use super::server::{Options, stopped};

/// How long to wait before a full backend is asked again, when yielding did not help.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
/// How often to yield before pausing: a poll-mode core empties its queue within microseconds.
const YIELDS_BEFORE_PAUSE: u32 = 16;

/// Serves one export to one client until either has had enough.
pub async fn transmit<S, R, W>(
    reader: &mut R,
    writer: &mut W,
    agreed: Agreed<S>,
    options: &Options,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<(), ConnectionError>
where
    S: Session,
    R: AsyncBufRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let Agreed {
        export,
        session,
        structured,
    } = agreed;
    let inflight = InFlight::new(options.max_in_flight);
    let intake = Intake {
        session: &session,
        inflight: &inflight,
        export: &export,
        structured,
    };
    let result = {
        let mut writing = pin!(write_replies(writer, &session, &inflight, structured));
        let ended = tokio::select! {
            ended = intake.read_requests(reader) => Ok(ended),
            failed = &mut writing => Err(failed),
            () = stopped(shutdown) => Ok(Ok(())),
        };
        inflight.close();
        match ended {
            Ok(ended) => {
                let written = finish_writing(writing, &inflight, options.stall_timeout).await;
                ended.and(written)
            }
            Err(failed) => failed.map_err(ConnectionError::from),
        }
    };
    drain(&session, &inflight).await;
    // Nothing is owed any more; whether the client sees an orderly end is up to it.
    let _ = writer.shutdown().await;
    result
}

/// Sends what is still owed, for as long as the client takes it.
async fn finish_writing(
    mut writing: impl Future<Output = std::io::Result<()>> + Unpin,
    inflight: &InFlight,
    stall_timeout: Duration,
) -> Result<(), ConnectionError> {
    let mut stuck_at = None;
    loop {
        tokio::select! {
            written = &mut writing => return Ok(written?),
            () = sleep(stall_timeout) => {
                // Waiting for the backend is no stall: it answers everything in its own time.
                let now = inflight.unfinished_write();
                if now.is_some() && now == stuck_at {
                    return Err(ConnectionError::Stalled(stall_timeout));
                }
                stuck_at = now;
            }
        }
    }
}

/// The reading half.
struct Intake<'a, S> {
    session: &'a S,
    inflight: &'a InFlight,
    export: &'a ExportInfo,
    structured: bool,
}

impl<S: Session> Intake<'_, S> {
    /// Takes requests until the client says goodbye or hangs up between two of them.
    ///
    /// May be dropped at any await: a request is either wholly with the backend or not at all.
    async fn read_requests<R>(&self, reader: &mut R) -> Result<(), ConnectionError>
    where
        R: AsyncBufRead + Unpin + Send,
    {
        loop {
            self.inflight.room().await;
            if reader.fill_buf().await?.is_empty() {
                return Ok(());
            }
            let mut header = [0; RequestHeader::LEN];
            reader.read_exact(&mut header).await?;
            let header = RequestHeader::parse(&header).map_err(ConnectionError::RequestMagic)?;
            if header.command == cmd::DISC {
                return Ok(());
            }
            if header.command == cmd::WRITE && header.len > MAX_PAYLOAD {
                let (len, limit) = (header.len, MAX_PAYLOAD);
                return Err(ConnectionError::PayloadTooLarge { len, limit });
            }
            self.take_request(reader, &header).await?;
        }
    }

    async fn take_request<R>(
        &self,
        reader: &mut R,
        header: &RequestHeader,
    ) -> Result<(), ConnectionError>
    where
        R: AsyncBufRead + Unpin + Send,
    {
        let RequestHeader {
            handle,
            offset,
            len,
            command,
            flags,
        } = *header;
        let pending = Pending {
            handle,
            op: op_of(command),
            offset,
            len,
        };
        let accepted = match check(header, self.export, self.structured) {
            Ok(op) => self
                .payload_memory(op, len)
                .await
                .map(|buffer| (op, buffer)),
            Err(refusal) => Err(refusal),
        };
        let (op, mut buffer) = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => {
                if command == cmd::WRITE {
                    skip(reader, u64::from(len)).await?;
                }
                self.inflight.refuse(pending, refusal);
                return Ok(());
            }
        };
        if let (Op::Write, Some(buffer)) = (op, &mut buffer) {
            reader.read_exact(buffer.as_mut_slice()).await?;
        }
        let is_set = |flag| flags & flag != 0;
        let request = Request {
            cookie: 0,
            op,
            offset,
            len,
            fua: is_set(cmd_flag::FUA),
            no_hole: is_set(cmd_flag::NO_HOLE),
            fast_zero: is_set(cmd_flag::FAST_ZERO),
            buffer,
        };
        self.submit(request, pending).await;
        Ok(())
    }

    /// Memory for a read or a write; nothing for the others.
    async fn payload_memory(
        &self,
        op: Op,
        len: u32,
    ) -> Result<Option<S::Buffer>, super::check::Refusal> {
        if !matches!(op, Op::Read | Op::Write) {
            return Ok(None);
        }
        let mut buffer = self.session.alloc(len as usize).await?;
        if buffer.as_mut_slice().len() != len as usize {
            tracing::error!(len, "nbd backend gave payload memory of another length");
            return Err(NbdErrno::NoMem.into());
        }
        Ok(Some(buffer))
    }

    /// Hands the request over, however long the backend's queue stays full.
    async fn submit(&self, mut request: Request<S::Buffer>, pending: Pending) {
        let mut attempts = 0;
        loop {
            // Noted before it is handed over: the reply may come at once, on another thread.
            if let Some(cookie) = self.inflight.insert(pending) {
                request.cookie = cookie;
                match self.session.submit(request) {
                    Ok(()) => return,
                    Err(returned) => request = returned,
                }
                self.inflight.remove(cookie);
            }
            attempts += 1;
            if attempts < YIELDS_BEFORE_PAUSE {
                tokio::task::yield_now().await;
            } else {
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}
