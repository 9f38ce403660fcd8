//! An AoE target as a function from request to response: no sockets, no clock, no threads.
//!
//! [`Target::respond`] takes one frame and writes the answer. It runs the command before it
//! returns, so answers leave in the order of the requests. What to queue, to delay or to lose is up
//! to the host.

mod ata;
mod config;
mod disk;
mod lists;
mod stats;

pub use config::TargetConfig;
pub use disk::{Disk, DiskError};
pub use lists::MacList;
pub use stats::TargetStats;

use crate::addr::Mac;
use crate::wire::mask::{MASK_LEN, directive_cmd, mask_cmd, mask_error};
use crate::wire::query::MAX_STRING;
use crate::wire::reserve::RESERVE_LEN;
use crate::wire::{
    AoeError, Command, Directive, Flags, Header, MIN_FRAME, MaskHeader, Query, QueryCmd, Reserve,
    ReserveCmd, VERSION, pad,
};

/// A LUN: a disk, and what initiators have configured. As with vblade, that configuration lives no
/// longer than the target: see [`Target::restart`].
pub struct Target<D> {
    config: TargetConfig,
    disk: D,
    string: ConfigString,
    /// Who is answered; empty = everybody.
    masks: MacList,
    /// Who may use the disk; empty = everybody.
    reservations: MacList,
    stats: TargetStats,
}

/// What becomes of a request that is for us.
enum Reply {
    /// No answer.
    Silence,
    /// An AoE error.
    Error(AoeError),
    /// An answer with so many bytes behind the AoE header.
    Body(usize),
}

impl<D: Disk> Target<D> {
    /// A target that nobody has configured, masked or reserved yet.
    pub fn new(config: TargetConfig, disk: D) -> Target<D> {
        Target {
            config,
            disk,
            string: ConfigString::default(),
            masks: MacList::default(),
            reservations: MacList::default(),
            stats: TargetStats::default(),
        }
    }

    /// Whether a frame with this header is a request to this LUN; shelf and slot may each be a
    /// wildcard.
    #[inline]
    pub fn addressed_by(&self, header: &Header) -> bool {
        !header.flags.is_response() && header.addr.covers(self.config.addr)
    }

    /// Handles one request.
    ///
    /// `frame` is the request from the Ethernet header on, padding and all; `out` takes the
    /// response, at most `out.len()` bytes, and data that is read goes from the disk straight to
    /// its place there. Returns the length to send, at least 60 bytes, or `None` for silence.
    ///
    /// A frame to another station's MAC (a port in promiscuous mode sees those) or from a group
    /// address is ignored.
    #[inline]
    pub fn respond(&mut self, frame: &[u8], my_mac: Mac, out: &mut [u8]) -> Option<usize> {
        let Ok((request, at)) = Header::parse(frame) else {
            self.stats.ignored_not_aoe += 1;
            return None;
        };
        if !self.accepts(&request, my_mac) {
            return None;
        }
        if out.len() < MIN_FRAME {
            self.stats.no_room += 1;
            return None;
        }
        let payload = frame.get(at..).unwrap_or_default();
        let body = out.get_mut(at..).unwrap_or_default();
        let (flags, error, len) = match self.dispatch(&request, payload, body) {
            Reply::Silence => return None,
            Reply::Body(len) => (Flags::RESPONSE, 0, len),
            Reply::Error(error) => {
                self.stats.refused += 1;
                (Flags::ERROR_RESPONSE, error.code(), echo(payload, body))
            }
        };
        let response = Header {
            dst: request.src,
            src: my_mac,
            vlan: request.vlan,
            version: VERSION,
            flags,
            error,
            addr: self.config.addr,
            command: request.command,
            tag: request.tag,
        };
        response.emit(out).and_then(|at| pad(out, at + len)).ok()
    }

    /// Writes the broadcast that tells initiators of this LUN; `None` while a mask list says that
    /// not everybody may know, or if `out` is too small.
    pub fn announce(&self, my_mac: Mac, out: &mut [u8]) -> Option<usize> {
        if !self.masks.is_empty() {
            return None;
        }
        let header = Header {
            flags: Flags::RESPONSE,
            ..Header::request(
                Mac::BROADCAST,
                my_mac,
                self.config.addr,
                Command::Query,
                crate::Tag::default(),
            )
        };
        let at = header.emit(out).ok()?;
        let len = self
            .query_response(QueryCmd::Read as u8)
            .emit(out.get_mut(at..)?)
            .ok()?;
        pad(out, at + len).ok()
    }

    /// Forgets configuration string, mask list and reservations, as vblade does when restarted.
    pub fn restart(&mut self) {
        self.string = ConfigString::default();
        self.masks = MacList::default();
        self.reservations = MacList::default();
    }

    /// What it was made with.
    pub fn config(&self) -> &TargetConfig {
        &self.config
    }

    /// Changes what it was made with: a target whose limits shrink while it is in use.
    pub fn config_mut(&mut self) -> &mut TargetConfig {
        &mut self.config
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The disk.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// What has happened so far.
    pub fn stats(&self) -> &TargetStats {
        &self.stats
    }

    /// The configuration string, at most 1024 bytes.
    pub fn config_string(&self) -> &[u8] {
        self.string.get()
    }

    /// The mask list.
    pub fn masks(&self) -> &[Mac] {
        self.masks.as_slice()
    }

    /// The reservation list.
    pub fn reservations(&self) -> &[Mac] {
        self.reservations.as_slice()
    }

    /// Whether the request is for us and its sender may speak to us; counts it if not.
    #[inline]
    fn accepts(&mut self, request: &Header, my_mac: Mac) -> bool {
        let ignored = if request.flags.is_response() {
            &mut self.stats.ignored_response
        } else if !self.addressed_by(request)
            || (request.dst != my_mac && !request.dst.is_group())
            || request.src.is_group()
        {
            &mut self.stats.ignored_address
        } else if !self.masks.is_empty() && !self.masks.contains(request.src) {
            &mut self.stats.ignored_masked
        } else {
            return true;
        };
        *ignored += 1;
        false
    }

    #[inline]
    fn dispatch(&mut self, request: &Header, payload: &[u8], body: &mut [u8]) -> Reply {
        if request.version != VERSION {
            return Reply::Error(AoeError::UnsupportedVersion);
        }
        match Command::try_from(request.command) {
            Ok(Command::Ata) => self.ata(request.src, payload, body),
            Ok(Command::Query) => self.query(payload, body),
            Ok(Command::Mask) => self.mask(payload, body),
            Ok(Command::Reserve) => self.reserve(request.src, payload, body),
            Err(_) => Reply::Error(AoeError::UnrecognisedCommand),
        }
    }

    fn query(&mut self, payload: &[u8], body: &mut [u8]) -> Reply {
        let Ok(fixed) = Query::parse_without_string(payload) else {
            return Reply::Error(AoeError::BadArgument);
        };
        let Some(ccmd) = QueryCmd::from_code(fixed.ccmd) else {
            return Reply::Error(AoeError::BadArgument);
        };
        if ccmd != QueryCmd::Read {
            let Ok(Query { string, .. }) = Query::parse(payload) else {
                return Reply::Error(AoeError::BadArgument);
            };
            let mine = self.string.get();
            let mismatch = match ccmd {
                QueryCmd::TestExact => mine != string,
                QueryCmd::TestPrefix => !mine.starts_with(string),
                _ => false,
            };
            if mismatch {
                self.stats.ignored_mismatch += 1;
                return Reply::Silence;
            }
            if ccmd == QueryCmd::SetIfEmpty && !mine.is_empty() && mine != string {
                return Reply::Error(AoeError::ConfigStringPresent);
            }
            if matches!(ccmd, QueryCmd::SetIfEmpty | QueryCmd::Force) {
                self.string.set(string);
            }
        }
        let Ok(len) = self.query_response(fixed.ccmd).emit(body) else {
            self.stats.no_room += 1;
            return Reply::Silence;
        };
        self.stats.queries += 1;
        Reply::Body(len)
    }

    fn query_response(&self, ccmd: u8) -> Query<'_> {
        let TargetConfig {
            buffer_count,
            firmware,
            max_sectors,
            ..
        } = self.config;
        Query::response(buffer_count, firmware, max_sectors, ccmd, self.string.get())
    }

    fn mask(&mut self, payload: &[u8], body: &mut [u8]) -> Reply {
        // The error byte of a request means nothing, and must not hide its directives.
        let mut request = [0; MASK_LEN + 8 * MacList::CAPACITY];
        let used = echo_into(payload, &mut request);
        if let Some(error) = request.get_mut(2) {
            *error = mask_error::NONE;
        }
        let request = request.get(..used).unwrap_or_default();
        let Ok((header, directives)) = MaskHeader::parse(request) else {
            return Reply::Error(AoeError::BadArgument);
        };
        let (error, done) = match header.command {
            mask_cmd::READ => (mask_error::NONE, 0),
            mask_cmd::EDIT => self.edit_masks(directives),
            _ => return Reply::Error(AoeError::BadArgument),
        };
        let mut list = [Directive::new(directive_cmd::NOP, Mac::default()); MacList::CAPACITY];
        let mut count = done;
        let mut shown = 0;
        if error == mask_error::NONE {
            let room = body.len().saturating_sub(MASK_LEN) / size_of::<Directive>();
            for (entry, mac) in list.iter_mut().zip(self.masks.as_slice()).take(room) {
                entry.mac = *mac;
                shown += 1;
            }
            count = u8::try_from(shown).unwrap_or(u8::MAX);
        }
        let response = MaskHeader {
            command: header.command,
            error,
            count,
        };
        let Ok(len) = response.emit(list.get(..shown).unwrap_or_default(), body) else {
            self.stats.no_room += 1;
            return Reply::Silence;
        };
        self.stats.mask_commands += 1;
        Reply::Body(len)
    }

    /// Carries out directives up to the first that cannot be; says why it stopped and how many were
    /// done. Those stay done, as with vblade.
    fn edit_masks(&mut self, directives: &[Directive]) -> (u8, u8) {
        let mut done = 0;
        for directive in directives {
            match directive.command {
                directive_cmd::NOP => {}
                directive_cmd::ADD if self.masks.add(directive.mac) => {}
                directive_cmd::ADD => return (mask_error::FULL, done),
                directive_cmd::DELETE => self.masks.remove(directive.mac),
                _ => return (mask_error::BAD_DIRECTIVE, done),
            }
            done = done.saturating_add(1);
        }
        (mask_error::NONE, done)
    }

    fn reserve(&mut self, src: Mac, payload: &[u8], body: &mut [u8]) -> Reply {
        let Some(command) = payload
            .first()
            .and_then(|&code| ReserveCmd::from_code(code))
        else {
            return Reply::Error(AoeError::BadArgument);
        };
        if command != ReserveCmd::Read {
            let Ok(request) = Reserve::parse(payload) else {
                return Reply::Error(AoeError::BadArgument);
            };
            if command == ReserveCmd::Set && !self.may_use(src) {
                return Reply::Error(AoeError::TargetReserved);
            }
            self.reservations.replace(request.macs);
        }
        let room = body.len().saturating_sub(RESERVE_LEN) / size_of::<Mac>();
        let macs = self.reservations.as_slice();
        let macs = macs.get(..room).unwrap_or(macs);
        let Ok(len) = (Reserve {
            command: command as u8,
            macs,
        })
        .emit(body) else {
            self.stats.no_room += 1;
            return Reply::Silence;
        };
        self.stats.reserve_commands += 1;
        Reply::Body(len)
    }

    /// Whether the reservations let `src` use the disk.
    #[inline]
    fn may_use(&self, src: Mac) -> bool {
        self.reservations.is_empty() || self.reservations.contains(src)
    }
}

/// The body of an error response: the start of the request's, for whoever wants to see what was
/// refused, up to the shortest frame.
fn echo(payload: &[u8], body: &mut [u8]) -> usize {
    let room = MIN_FRAME - crate::wire::HEADER_LEN - crate::wire::VLAN_LEN;
    echo_into(payload, body.get_mut(..room).unwrap_or_default())
}

/// Copies what fits of `from`; returns how many bytes that were.
fn echo_into(from: &[u8], to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    len
}

/// At most 1024 bytes of configuration string.
struct ConfigString {
    bytes: [u8; MAX_STRING],
    len: usize,
}

impl Default for ConfigString {
    fn default() -> Self {
        ConfigString {
            bytes: [0; MAX_STRING],
            len: 0,
        }
    }
}

impl ConfigString {
    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The caller's parser has seen to it that `string` fits.
    fn set(&mut self, string: &[u8]) {
        self.len = echo_into(string, &mut self.bytes);
    }
}
