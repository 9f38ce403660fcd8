//! Frames as a test sees them: taken apart, changed, made up.

use aoe_proto::wire::{AtaHeader, Command, Flags, HEADER_LEN, Header, Query, pad};
use aoe_proto::{Mac, ShelfSlot, Tag};

/// What a frame says.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    pub header: Header,
    /// Where the command-specific part begins.
    pub at: usize,
    pub ata: Option<AtaHeader>,
}

/// Takes a frame apart.
pub fn info(frame: &[u8]) -> Info {
    let (header, at) = Header::parse(frame).unwrap();
    let is_ata = header.command == Command::Ata as u8;
    let ata = AtaHeader::parse(&frame[at..])
        .ok()
        .filter(|_| is_ata)
        .map(|(ata, _)| ata);
    Info { header, at, ata }
}

/// Whether the frame is an ATA one with this command, which only a request tells.
pub fn is_command(frame: &[u8], command: u8) -> bool {
    info(frame)
        .ata
        .is_some_and(|ata| ata.command_or_status == command)
}

/// Whether it is an ATA response with `sectors` of data and nothing else.
pub fn has_data(frame: &[u8], sectors: usize) -> bool {
    frame.len() == HEADER_LEN + 12 + sectors * 512
}

/// Changes the common header.
pub fn edit_header(frame: &mut [u8], edit: impl FnOnce(&mut Header)) {
    let mut header = info(frame).header;
    let len = header.len();
    edit(&mut header);
    assert_eq!(header.len(), len, "an 802.1Q tag cannot be added here");
    header.emit(frame).unwrap();
}

/// Changes the ATA header.
pub fn edit_ata(frame: &mut [u8], edit: impl FnOnce(&mut AtaHeader)) {
    let Info { at, ata, .. } = info(frame);
    let mut ata = ata.unwrap();
    edit(&mut ata);
    ata.emit(&mut frame[at..]).unwrap();
}

/// Makes an answer an AoE error without a body.
pub fn make_error(frame: &mut Vec<u8>, code: u8) {
    edit_header(frame, |h| {
        (h.flags, h.error) = (Flags::ERROR_RESPONSE, code)
    });
    frame.truncate(60);
}

/// Makes an answer an ATA failure without data.
pub fn make_ata_failure(frame: &mut Vec<u8>, status: u8, error: u8) {
    edit_ata(frame, |a| {
        (a.command_or_status, a.feature_or_error) = (status, error)
    });
    frame.truncate(60);
}

/// Changes words of an IDENTIFY answer: `edit` gets the word's number and its value.
pub fn edit_identify(frame: &mut [u8], edit: impl Fn(usize, u16) -> u16) {
    let at = info(frame).at + 12;
    for (i, word) in frame[at..at + 512]
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .enumerate()
    {
        *word = edit(i, u16::from_le_bytes(*word)).to_le_bytes();
    }
}

/// A config answer, or an announcement.
pub fn config_frame(dst: Mac, src: Mac, addr: ShelfSlot, version: u8, tag: u32) -> Vec<u8> {
    let mut frame = vec![0; 60];
    let header = Header {
        version,
        flags: Flags::RESPONSE,
        ..Header::request(dst, src, addr, Command::Query, Tag(tag))
    };
    let at = header.emit(&mut frame).unwrap();
    let len = Query::response(16, 1, 2, 0, &[])
        .emit(&mut frame[at..])
        .unwrap();
    pad(&mut frame, at + len).unwrap();
    frame
}

/// A stream of numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
