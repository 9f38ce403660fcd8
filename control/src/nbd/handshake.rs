//! The fixed newstyle handshake: the client haggles over options until it picks an export.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::{debug, error};

use super::backend::{Backend, ExportInfo, MAX_NAME_LEN, OpenError};
use super::error::ConnectionError;
use super::proto::{self, InfoQuery, OptionHeader, info, option, rep};

/// The longest option data that is read; anything longer is skipped and refused.
const MAX_OPTION_LEN: u32 = 64 << 10;

/// What the handshake agreed on.
pub struct Agreed<S> {
    /// The export, as told to the client.
    pub export: ExportInfo,
    /// The backend's side of it.
    pub session: S,
    /// The client understands structured replies.
    pub structured: bool,
}

/// Runs the handshake. `None`: the client left in good order.
pub async fn negotiate<B, R, W>(
    reader: &mut R,
    writer: &mut W,
    backend: &B,
) -> Result<Option<Agreed<B::Session>>, ConnectionError>
where
    B: Backend,
    R: AsyncBufRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut out = Vec::new();
    proto::put_greeting(&mut out);
    writer.write_all(&out).await?;
    if reader.fill_buf().await?.is_empty() {
        // Someone looks whether the server is alive, as `bind` does.
        return Ok(None);
    }
    let client_flags = reader.read_u32().await?;
    let offered = u32::from(proto::FLAG_FIXED_NEWSTYLE | proto::FLAG_NO_ZEROES);
    if client_flags & !offered != 0 {
        return Err(ConnectionError::ClientFlags(client_flags));
    }
    let mut haggling = Haggling {
        backend,
        padded: client_flags & u32::from(proto::FLAG_NO_ZEROES) == 0,
        structured: false,
        out,
    };
    let mut data = Vec::new();
    loop {
        if reader.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        haggling.out.clear();
        let next = haggling.one_option(reader, &mut data).await?;
        let sent = writer.write_all(&haggling.out).await;
        match next {
            // The client need not wait for the acknowledgement.
            Next::Leave => return Ok(None),
            Next::Haggle => sent?,
            Next::Transmit(agreed) => {
                sent?;
                return Ok(Some(agreed));
            }
        }
    }
}

/// What follows an option.
enum Next<S> {
    Haggle,
    Leave,
    Transmit(Agreed<S>),
}

struct Haggling<'a, B> {
    backend: &'a B,
    /// The client did not agree to leave out the padding after `NBD_OPT_EXPORT_NAME`.
    padded: bool,
    structured: bool,
    /// Replies to the current option.
    out: Vec<u8>,
}

impl<B: Backend> Haggling<'_, B> {
    async fn one_option<R>(
        &mut self,
        reader: &mut R,
        data: &mut Vec<u8>,
    ) -> Result<Next<B::Session>, ConnectionError>
    where
        R: AsyncBufRead + Unpin + Send,
    {
        let mut header = [0; OptionHeader::LEN];
        reader.read_exact(&mut header).await?;
        let header = OptionHeader::parse(&header);
        if header.magic != proto::OPTION_MAGIC {
            return Err(ConnectionError::OptionMagic(header.magic));
        }
        if header.len > MAX_OPTION_LEN {
            if header.option == option::EXPORT_NAME {
                return Err(ConnectionError::ExportName(header.len as usize));
            }
            skip(reader, u64::from(header.len)).await?;
            self.reply(
                header.option,
                rep::ERR_TOO_BIG,
                &[b"option data is longer than 64 KiB"],
            );
            return Ok(Next::Haggle);
        }
        data.resize(header.len as usize, 0);
        reader.read_exact(data).await?;
        debug!(option = header.option, len = header.len, "nbd option");
        self.answer(header.option, data)
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Result<Next<B::Session>, ConnectionError> {
        match option {
            option::EXPORT_NAME => return self.export_name(data).map(Next::Transmit),
            option::GO => return Ok(self.go(data).map_or(Next::Haggle, Next::Transmit)),
            option::ABORT => {
                self.reply(option, rep::ACK, &[]);
                return Ok(Next::Leave);
            }
            option::INFO => self.info(data),
            option::LIST if data.is_empty() => self.list(),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.reply(option, rep::ACK, &[]);
            }
            option::LIST | option::STRUCTURED_REPLY => {
                self.reply(option, rep::ERR_INVALID, &[b"this option takes no data"]);
            }
            _ => self.reply(option, rep::ERR_UNSUP, &[]),
        }
        Ok(Next::Haggle)
    }

    fn list(&mut self) {
        for export in self.backend.list().iter().filter(|export| is_sound(export)) {
            let name = export.name.as_bytes();
            // A sound name is at most 4096 bytes.
            let len = (name.len() as u32).to_be_bytes();
            self.reply(
                option::LIST,
                rep::SERVER,
                &[&len, name, export.description.as_bytes()],
            );
        }
        self.reply(option::LIST, rep::ACK, &[]);
    }

    fn info(&mut self, data: &[u8]) {
        let Some(query) = self.parse_query(option::INFO, data) else {
            return;
        };
        let found = self.full_name(query.export).and_then(|name| {
            let found = self
                .backend
                .list()
                .into_iter()
                .find(|export| export.name == name);
            found.ok_or(OpenError::Unknown(name))
        });
        match found.and_then(sound) {
            Ok(export) => self.describe(option::INFO, &query, &export),
            Err(error) => self.refuse_export(option::INFO, &error),
        }
    }

    fn go(&mut self, data: &[u8]) -> Option<Agreed<B::Session>> {
        let query = self.parse_query(option::GO, data)?;
        match self.open(query.export) {
            Ok(agreed) => {
                self.describe(option::GO, &query, &agreed.export);
                Some(agreed)
            }
            Err(error) => {
                self.refuse_export(option::GO, &error);
                None
            }
        }
    }

    fn export_name(&mut self, data: &[u8]) -> Result<Agreed<B::Session>, ConnectionError> {
        let name = proto::export_name(data).ok_or(ConnectionError::ExportName(data.len()))?;
        let agreed = self.open(name)?;
        let flags = proto::transmission_flags(&agreed.export, self.structured);
        proto::put_export_name_answer(&mut self.out, &agreed.export, flags, self.padded);
        Ok(agreed)
    }

    fn parse_query<'d>(&mut self, option: u32, data: &'d [u8]) -> Option<InfoQuery<'d>> {
        let query = InfoQuery::parse(data);
        if query.is_none() {
            self.reply(
                option,
                rep::ERR_INVALID,
                &[b"the data of the option does not add up"],
            );
        }
        query
    }

    /// The empty name stands for the only export.
    fn full_name(&self, name: &str) -> Result<String, OpenError> {
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        match <[ExportInfo; 1]>::try_from(self.backend.list()) {
            Ok([only]) => Ok(only.name),
            Err(_) => Err(OpenError::Unknown(String::new())),
        }
    }

    fn open(&self, name: &str) -> Result<Agreed<B::Session>, OpenError> {
        let (export, session) = self.backend.open(&self.full_name(name)?)?;
        Ok(Agreed {
            export: sound(export)?,
            session,
            structured: self.structured,
        })
    }

    fn describe(&mut self, option: u32, query: &InfoQuery<'_>, export: &ExportInfo) {
        let flags = proto::transmission_flags(export, self.structured).to_be_bytes();
        let size = export.size_bytes.to_be_bytes();
        self.reply(
            option,
            rep::INFO,
            &[&info::EXPORT.to_be_bytes(), &size, &flags],
        );
        if query.name {
            let name = export.name.as_bytes();
            self.reply(option, rep::INFO, &[&info::NAME.to_be_bytes(), name]);
        }
        if query.description && !export.description.is_empty() {
            let text = export.description.as_bytes();
            self.reply(option, rep::INFO, &[&info::DESCRIPTION.to_be_bytes(), text]);
        }
        if query.block_size {
            let [min, preferred, max] =
                [export.min_block, export.preferred_block, export.max_block].map(u32::to_be_bytes);
            let kind = info::BLOCK_SIZE.to_be_bytes();
            self.reply(option, rep::INFO, &[&kind, &min, &preferred, &max]);
        }
        self.reply(option, rep::ACK, &[]);
    }

    /// Also for exports that exist but cannot be used: the specification says "not available".
    fn refuse_export(&mut self, option: u32, error: &OpenError) {
        debug!(%error, "nbd export refused");
        let text = match error {
            OpenError::Unknown(_) => "no such export",
            // The same limit holds for every string of the protocol.
            OpenError::Unavailable { reason, .. } if reason.len() <= MAX_NAME_LEN => reason,
            OpenError::Unavailable { .. } => "not available now",
        };
        self.reply(option, rep::ERR_UNKNOWN, &[text.as_bytes()]);
    }

    fn reply(&mut self, option: u32, reply: u32, data: &[&[u8]]) {
        proto::put_option_reply(&mut self.out, option, reply, data);
    }
}

fn is_sound(export: &ExportInfo) -> bool {
    match export.fault() {
        None => true,
        Some(fault) => {
            error!(export = export.name, fault, "nbd export is not served");
            false
        }
    }
}

fn sound(export: ExportInfo) -> Result<ExportInfo, OpenError> {
    if is_sound(&export) {
        return Ok(export);
    }
    Err(OpenError::Unavailable {
        name: export.name,
        reason: "the export is misconfigured".into(),
    })
}

/// Reads and forgets `len` bytes.
pub async fn skip<R>(reader: &mut R, len: u64) -> std::io::Result<()>
where
    R: AsyncBufRead + Unpin + Send,
{
    let mut part = reader.take(len);
    if tokio::io::copy_buf(&mut part, &mut tokio::io::sink()).await? < len {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
