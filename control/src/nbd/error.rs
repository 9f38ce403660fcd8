//! Why a connection ended other than by the client's wish.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::backend::OpenError;

/// What ended a connection.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The socket failed, or closed in the middle of a message.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The client did not finish the handshake in time.
    #[error("handshake not finished within {0:?}")]
    HandshakeTimeout(Duration),
    /// The client set handshake flags that this server did not offer.
    #[error("client flags {0:#010x} hold bits that were not offered")]
    ClientFlags(u32),
    /// An option does not start with the magic number.
    #[error("option starts with {0:#018x} in place of the magic number")]
    OptionMagic(u64),
    /// `NBD_OPT_EXPORT_NAME` with a name that cannot be one: the protocol has no reply for it.
    #[error("export name of {0} bytes is too long or not UTF-8")]
    ExportName(usize),
    /// `NBD_OPT_EXPORT_NAME` asked for what cannot be opened: the protocol has no reply for it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A request does not start with the magic number.
    #[error("request starts with {0:#010x} in place of the magic number")]
    RequestMagic(u32),
    /// A write announced more payload than this server is willing to skip.
    #[error("write announces {len} bytes of payload, more than {limit}")]
    PayloadTooLarge {
        /// What it announced.
        len: u32,
        /// The most that is accepted.
        limit: u32,
    },
    /// The connection is closing and the client does not read its replies.
    #[error("client read none of its replies for {0:?} while the connection was closing")]
    Stalled(Duration),
}

impl ConnectionError {
    /// The client broke the protocol, as opposed to having gone away.
    pub(super) fn is_violation(&self) -> bool {
        match self {
            Self::Io(_) | Self::HandshakeTimeout(_) | Self::Open(_) | Self::Stalled(_) => false,
            Self::ClientFlags(_)
            | Self::OptionMagic(_)
            | Self::ExportName(_)
            | Self::RequestMagic(_)
            | Self::PayloadTooLarge { .. } => true,
        }
    }
}
