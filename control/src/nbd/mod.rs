//! An NBD server: exports block devices to qemu, nbdcopy, fio, the Linux kernel and any other
//! client of the Network Block Device protocol, over a Unix socket.
//!
//! The server speaks the fixed newstyle handshake and simple or structured replies. It does no I/O
//! itself: [`Backend`] is the seam, see there for what the two sides owe each other.
//!
//! ```no_run
//! # async fn example<B: aoe_control::nbd::Backend>(backend: B) -> Result<(), Box<dyn std::error::Error>> {
//! use aoe_control::nbd;
//!
//! let (listener, _file) = nbd::bind("/run/aoed/nbd.sock".as_ref(), nbd::DEFAULT_SOCKET_MODE).await?;
//! let (stop, stopped) = tokio::sync::watch::channel(false);
//! // `stop.send(true)` later ends the server in good order.
//! nbd::serve(listener, backend.into(), nbd::Options::default(), stopped).await?;
//! # drop(stop);
//! # Ok(())
//! # }
//! ```
//!
//! Choices where the specification leaves room:
//!
//! * a length of zero is refused with `EINVAL` (only a flush has none);
//! * a client that does not ask for block sizes is served anyway, and gets `EINVAL` for what is
//!   not aligned;
//! * the empty export name means the only export, when there is exactly one;
//! * every reply to a read is one chunk, so `DF` is always honoured;
//! * a write too large for the export is read off the socket and refused, up to
//!   [`MAX_PAYLOAD`]; beyond that the connection is closed.

mod backend;
mod check;
mod error;
mod handshake;
mod inflight;
mod proto;
mod replies;
mod server;
mod session;
mod socket;

pub use backend::{
    Backend, Buffer, ExportInfo, MAX_NAME_LEN, MAX_PAYLOAD, NbdErrno, Op, OpenError, Reply,
    Request, Session,
};
pub use error::ConnectionError;
pub use server::{Options, serve, serve_connection};
pub use socket::{BindError, DEFAULT_SOCKET_MODE, SocketFile, bind};
