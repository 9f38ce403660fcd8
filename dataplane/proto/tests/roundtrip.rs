//! For each format: what was emitted parses into the same value, and no bytes make a parser panic.

use aoe_proto::wire::ata::{emit_trim_ranges, parse_trim_ranges};
use aoe_proto::wire::mask::mask_error;
use aoe_proto::wire::*;
use aoe_proto::{Mac, ShelfSlot, Tag};
use proptest::collection::vec;
use proptest::prelude::*;

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

prop_compose! {
    fn header()(
        (dst, src) in (mac(), mac()),
        vlan in any::<Option<u16>>(),
        (version, flags) in (0u8..16, 0u8..16),
        (error, shelf, slot, command, tag) in any::<(u8, u16, u8, u8, u32)>(),
    ) -> Header {
        let addr = ShelfSlot { shelf, slot };
        Header { dst, src, vlan, version, flags: Flags(flags), error, addr, command, tag: Tag(tag) }
    }
}

prop_compose! {
    fn ata()(
        (flags, feature_or_error, sectors, command_or_status) in any::<(u8, u8, u8, u8)>(),
        lba in 0u64..1 << 48,
    ) -> AtaHeader {
        AtaHeader { flags, feature_or_error, sectors, command_or_status, lba }
    }
}

prop_compose! {
    fn identify()(
        lba48: bool,
        size in any::<u64>(),
        (serial, firmware, head, tail) in any::<([u8; 20], [u8; 8], [u8; 20], [u8; 20])>(),
        wwn: Option<u64>,
        (flush, flush_ext, write_cache) in any::<(bool, bool, bool)>(),
        (trim, trim_zeroes) in any::<(bool, bool)>(),
        (logical, ratio) in (0u32..6, 0u32..16),
    ) -> Identify {
        let mut model = [0; 40];
        model[..20].copy_from_slice(&head);
        model[20..].copy_from_slice(&tail);
        let limit = if lba48 { 1 << 48 } else { 1 << 28 };
        Identify {
            lba48,
            // 48 bits of nothing would be taken for a disk that has no LBA48.
            sectors: (size % limit).max(1),
            serial, firmware, model, wwn, flush,
            flush_ext: flush_ext && lba48,
            write_cache, trim,
            trim_zeroes: trim_zeroes && trim,
            logical_sector: 512 << logical,
            physical_sector: 512 << (logical + ratio),
        }
    }
}

proptest! {
    #[test]
    fn header_round_trips(header in header(), extra in 0usize..64) {
        let mut out = [0; 128];
        let len = header.emit(&mut out).unwrap();
        prop_assert_eq!(len, if header.vlan.is_some() { 28 } else { 24 });
        prop_assert_eq!(Header::parse(&out[..len + extra]), Ok((header, len)));
        prop_assert_eq!(Header::parse(&out[..len - 1]), Err(ParseError::Runt { len: len - 1 }));
        let short = ShortBuffer { need: len, have: len - 1 };
        prop_assert_eq!(header.emit(&mut out[..len - 1]), Err(short));
    }

    #[test]
    fn ata_round_trips(ata in ata(), data in vec(any::<u8>(), 0..64)) {
        let mut out = [0; 128];
        prop_assert_eq!(ata.emit(&mut out), Ok(ATA_LEN));
        out[ATA_LEN..ATA_LEN + data.len()].copy_from_slice(&data);
        prop_assert_eq!(AtaHeader::parse(&out[..ATA_LEN + data.len()]), Ok((ata, &data[..])));
        prop_assert!(ata.emit(&mut out[..ATA_LEN - 1]).is_err());
    }

    #[test]
    fn query_round_trips(
        (buffer_count, firmware, max_sectors) in any::<(u16, u16, u8)>(),
        (version, ccmd) in (0u8..16, 0u8..16),
        string in vec(any::<u8>(), 0..1100),
    ) {
        let query =
            Query { buffer_count, firmware, max_sectors, version, ccmd, string: &string };
        let mut out = [0; 2048];
        if string.len() > 1024 {
            prop_assert!(query.emit(&mut out).is_err());
        } else {
            let len = query.emit(&mut out).unwrap();
            prop_assert_eq!(Query::parse(&out), Ok(query));
            prop_assert!(query.emit(&mut out[..len - 1]).is_err());
            prop_assert!(Query::parse(&out[..len - 1]).is_err());
        }
    }

    #[test]
    fn mask_round_trips(
        command: u8,
        error in prop_oneof![Just(mask_error::NONE), any::<u8>()],
        entries in vec((any::<u8>(), mac()), 0..=255),
    ) {
        let entries: Vec<_> = entries.iter().map(|&(c, mac)| Directive::new(c, mac)).collect();
        let header = MaskHeader { command, error, count: entries.len() as u8 };
        let mut out = [0; 2048];
        let len = header.emit(&entries, &mut out).unwrap();
        let shown = if error == mask_error::NONE { &entries[..] } else { &[] };
        prop_assert_eq!(MaskHeader::parse(&out[..len]), Ok((header, shown)));
        prop_assert!(header.emit(&entries, &mut out[..len - 1]).is_err());
        if !shown.is_empty() {
            let error =
                ParseError::ListLength { count: header.count, available: shown.len() - 1 };
            prop_assert_eq!(MaskHeader::parse(&out[..len - 1]), Err(error));
        }
    }

    #[test]
    fn reserve_round_trips(command: u8, macs in vec(mac(), 0..=300)) {
        let reserve = Reserve { command, macs: &macs };
        let mut out = [0; 2048];
        if macs.len() > 255 {
            prop_assert!(reserve.emit(&mut out).is_err());
        } else {
            let len = reserve.emit(&mut out).unwrap();
            prop_assert_eq!(Reserve::parse(&out[..len]), Ok(reserve));
            prop_assert!(Reserve::parse(&out[..len - 1]).is_err());
        }
    }

    #[test]
    fn identify_round_trips(identify in identify()) {
        let mut out = [0xee; SECTOR];
        identify.emit(&mut out);
        prop_assert_eq!(Identify::parse(&out), Ok(identify));
        prop_assert_eq!(Identify::parse(&out[..511]), Err(ParseError::Runt { len: 511 }));
    }

    #[test]
    fn trim_ranges_cover_what_they_say(lba in 0u64..1 << 49, sectors in 0u64..10_000_000) {
        let mut out = [0xee; SECTOR];
        let covered = emit_trim_ranges(&mut out, lba, sectors);
        prop_assert!(covered <= sectors);
        let mut next = lba;
        for (start, count) in parse_trim_ranges(&out) {
            prop_assert_eq!(start, next);
            next += u64::from(count);
        }
        prop_assert_eq!(next, lba + covered);
        let most = (64 * 65535).min((1u64 << 48).saturating_sub(lba));
        prop_assert_eq!(covered, sectors.min(most));
    }

    #[test]
    fn addresses_round_trip(mac in mac(), shelf: u16, slot: u8) {
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        let addr = ShelfSlot { shelf, slot };
        prop_assert_eq!(addr.to_string().parse(), Ok(addr));
        prop_assert_eq!(format!("{shelf}.{slot}").parse(), Ok(addr));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,24}") {
        let _ = (text.parse::<Mac>(), text.parse::<ShelfSlot>());
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..1100), ethertype in 0usize..3, room in 0usize..64) {
        let mut bytes = bytes;
        // Random bytes would almost never get past the EtherType.
        let ethertype =
            [&[][..], &[0x88, 0xa2u8], &[0x81, 0, 0, 7, 0x88, 0xa2]][ethertype];
        if let Some(at) = bytes.get_mut(12..12 + ethertype.len()) {
            at.copy_from_slice(ethertype);
        }
        let mut out = vec![0; room];
        if let Ok((header, at)) = Header::parse(&bytes) {
            prop_assert!(at <= bytes.len());
            let _ = header.emit(&mut out);
        }
        let _ = AtaHeader::parse(&bytes).map(|(ata, _)| ata.emit(&mut out));
        let _ = Query::parse(&bytes).map(|query| query.emit(&mut out));
        let _ = Query::parse_without_string(&bytes);
        let _ = MaskHeader::parse(&bytes).map(|(mask, list)| mask.emit(list, &mut out));
        let _ = Reserve::parse(&bytes).map(|reserve| reserve.emit(&mut out));
        let _ = parse_trim_ranges(&bytes).count();
        let _ = pad(&mut out, bytes.len());
        if let Ok(identify) = Identify::parse(&bytes) {
            let _ = (identify.serial_str(), identify.firmware_str(), identify.model_str());
            // Whatever a target says comes to rest after one round.
            let mut emitted = [0; SECTOR];
            identify.emit(&mut emitted);
            prop_assert_eq!(Identify::parse(&emitted), Ok(identify));
        }
    }
}

#[test]
fn unanswered_bus_is_no_disk() {
    let identify = Identify::parse(&[0xff; SECTOR]).unwrap();
    assert!(!identify.lba48 && !identify.flush && !identify.flush_ext && !identify.write_cache);
    assert!(!identify.trim && !identify.trim_zeroes && identify.wwn.is_none());
    assert_eq!(
        (identify.logical_sector, identify.physical_sector),
        (512, 512)
    );
    let identify = Identify::parse(&[0; SECTOR]).unwrap();
    assert_eq!(
        (identify.lba48, identify.sectors, identify.serial_str()),
        (false, 0, String::new())
    );
}

#[test]
fn identify_bits_are_where_ata_puts_them() {
    let mut data = [0; SECTOR];
    let mut set = |word: usize, value: u16| {
        data[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
    };
    set(83, 0x7400);
    set(86, 0x3400);
    set(87, 0x4100);
    set(85, 0x0020);
    set(100, 0x5678);
    set(101, 0x1234);
    for (word, value) in [(108, 0x5000), (109, 0xc500), (110, 0x1234), (111, 0x5678)] {
        set(word, value);
    }
    set(106, 0x6003);
    set(169, 1);
    set(69, 0x4020);
    set(10, u16::from_be_bytes(*b"AB"));
    let identify = Identify::parse(&data).unwrap();
    assert!(identify.lba48 && identify.flush && identify.flush_ext && identify.write_cache);
    assert!(identify.trim && identify.trim_zeroes);
    assert_eq!(identify.sectors, 0x1234_5678);
    assert_eq!(identify.wwn, Some(0x5000_c500_1234_5678));
    assert_eq!(
        (identify.logical_sector, identify.physical_sector),
        (512, 4096)
    );
    assert_eq!(identify.serial_str(), "AB");
}

#[test]
fn a_promise_needs_all_its_bits() {
    let full = Identify {
        lba48: true,
        sectors: 1 << 20,
        serial: [b' '; 20],
        firmware: [b' '; 8],
        model: [b' '; 40],
        wwn: None,
        flush: true,
        flush_ext: true,
        write_cache: true,
        trim: true,
        trim_zeroes: true,
        logical_sector: 512,
        physical_sector: 512,
    };
    // Word, the bit to clear, what is then no longer promised.
    let no_flush = Identify {
        flush: false,
        ..full
    };
    let no_ext = Identify {
        flush_ext: false,
        ..full
    };
    let no_zeroes = Identify {
        trim_zeroes: false,
        ..full
    };
    let cases = [
        (83, 12, no_flush),
        (86, 12, no_flush),
        (83, 13, no_ext),
        (86, 13, no_ext),
        (69, 14, no_zeroes),
        (69, 5, no_zeroes),
        (
            169,
            0,
            Identify {
                trim: false,
                ..no_zeroes
            },
        ),
        (
            85,
            5,
            Identify {
                write_cache: false,
                ..full
            },
        ),
        // One of two words is enough for LBA48; a missing 01 in bits 15:14 is forgiven.
        (83, 10, full),
        (86, 10, full),
        (83, 14, full),
        (87, 14, full),
    ];
    for (word, bit, expected) in cases {
        let mut data = [0; SECTOR];
        full.emit(&mut data);
        let byte = &mut data[2 * word + bit / 8];
        assert_ne!(*byte & 1 << (bit % 8), 0, "word {word} bit {bit} was set");
        *byte &= !(1 << (bit % 8));
        assert_eq!(
            Identify::parse(&data),
            Ok(expected),
            "word {word} bit {bit}"
        );
    }
}

#[test]
fn a_string_is_at_most_1024_bytes_long_even_if_there_are_more() {
    let mut body = [0; 2048];
    let len = Query::request(QueryCmd::Force, &[7; 1024])
        .emit(&mut body)
        .unwrap();
    assert_eq!(len, 8 + 1024);
    assert!(Query::parse(&body).is_ok());
    body[7] = 1;
    let error = ParseError::StringLength {
        len: 1025,
        available: 2040,
    };
    assert_eq!(Query::parse(&body), Err(error));
}
