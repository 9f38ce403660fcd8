//! What the target answers: next to vblade on the recorded requests, then case by case.

mod common;

use aoe_proto::target::{DiskError, Target, TargetConfig};
use aoe_proto::wire::ata::{
    emit_trim_ranges, flush_command, identify_command, read_command, trim_command, write_command,
};
use aoe_proto::wire::mask::{directive_cmd, mask_cmd, mask_error};
use aoe_proto::wire::*;
use aoe_proto::{Mac, ShelfSlot, Tag};
use common::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// A target that describes itself as the recorded vblade does.
fn target() -> Target<MemDisk> {
    let mut config = TargetConfig::new(LUN);
    config.firmware = 0x4019;
    config.serial = "7.3:gold".into();
    Target::new(config, MemDisk::golden())
}

/// What came back for a request.
struct Answer(Vec<u8>);

impl Answer {
    fn header(&self) -> Header {
        Header::parse(&self.0).unwrap().0
    }

    fn body(&self) -> &[u8] {
        let (_, at) = Header::parse(&self.0).unwrap();
        &self.0[at..]
    }

    fn error(&self) -> Option<AoeError> {
        let header = self.header();
        header
            .flags
            .is_error()
            .then(|| AoeError::from_code(header.error))
    }

    fn ata(&self) -> (AtaHeader, &[u8]) {
        assert_eq!(self.error(), None);
        AtaHeader::parse(self.body()).unwrap()
    }

    fn status(&self) -> (u8, u8) {
        let ata = self.ata().0;
        (ata.command_or_status, ata.feature_or_error)
    }
}

const DONE: (u8, u8) = (ata_status::DRDY, 0);
const ABORTED: (u8, u8) = (ata_status::DRDY | ata_status::ERR, ata_error::ABRT);
const NO_SECTOR: (u8, u8) = (ata_status::DRDY | ata_status::ERR, ata_error::IDNF);

fn respond(target: &mut Target<MemDisk>, frame: &[u8]) -> Option<Answer> {
    // Stale bytes everywhere: what is not written would show.
    let mut out = vec![0xee; 9000];
    let before = *target.stats();
    let len = target.respond(frame, TARGET, &mut out);
    let after = target.stats();
    assert_eq!(
        after.frames(),
        before.frames() + 1,
        "each frame is counted once"
    );
    assert_eq!(
        after.answered() - before.answered(),
        u64::from(len.is_some())
    );
    out.truncate(len?);
    assert!(out.len() >= MIN_FRAME);
    Some(Answer(out))
}

fn header(src: Mac, command: Command) -> Header {
    Header::request(TARGET, src, LUN, command, Tag(0xfeed_0001))
}

fn request(header: Header, emit: impl FnOnce(&mut [u8]) -> Result<usize, ShortBuffer>) -> Vec<u8> {
    let mut frame = vec![0; 4096];
    let at = header.emit(&mut frame).unwrap();
    let len = emit(&mut frame[at..]).unwrap();
    frame.truncate(at + len);
    frame
}

fn ata_from(src: Mac, ata: AtaHeader, data: &[u8]) -> Vec<u8> {
    let mut frame = request(header(src, Command::Ata), |out| ata.emit(out));
    frame.extend_from_slice(data);
    frame
}

fn ata(target: &mut Target<MemDisk>, ata: AtaHeader, data: &[u8]) -> Answer {
    respond(target, &ata_from(INITIATOR, ata, data)).unwrap()
}

fn query(target: &mut Target<MemDisk>, ccmd: QueryCmd, string: &[u8]) -> Option<Answer> {
    let header = header(INITIATOR, Command::Query);
    respond(
        target,
        &request(header, |out| Query::request(ccmd, string).emit(out)),
    )
}

fn mask(target: &mut Target<MemDisk>, command: u8, list: &[Directive]) -> Option<Answer> {
    let mask = MaskHeader {
        command,
        error: 0,
        count: list.len() as u8,
    };
    respond(
        target,
        &request(header(INITIATOR, Command::Mask), |out| mask.emit(list, out)),
    )
}

fn reserve(target: &mut Target<MemDisk>, src: Mac, command: ReserveCmd, macs: &[Mac]) -> Answer {
    let reserve = Reserve {
        command: command as u8,
        macs,
    };
    respond(
        target,
        &request(header(src, Command::Reserve), |out| reserve.emit(out)),
    )
    .unwrap()
}

#[test]
fn answers_as_vblade_does_where_that_is_sane() {
    let differs = [
        "identify",          // another disk
        "identify-padded",   //
        "reserved-identify", //
        "read-none",         // error 2, not zero sectors of a command that means 256
        "flush",             // DRDY
        "flush-ext",         // supported
        "check-power-one",   // answered
        "version-2",         // error 5
        "config-unknown",    // the request comes back, not the string
        "config-set-refused",
        "reserved-set",
    ];
    let mut target = target();
    for pair in golden()[1..].chunks(2) {
        let [request, response] = pair else {
            unreachable!()
        };
        let name = request.name.trim_end_matches(".request");
        let ours = respond(&mut target, request.frame.as_ref().unwrap());
        let Some(theirs) = &response.frame else {
            assert!(name == "check-power-one" || ours.is_none(), "{name}");
            continue;
        };
        let ours = ours.unwrap_or_else(|| panic!("{name} is not answered"));
        let (header, at) = Header::parse(theirs).unwrap();
        if !["version-2", "read-none"].contains(&name) {
            assert_eq!(ours.header(), header, "{name}");
        }
        if differs.contains(&name) {
            continue;
        }
        // vblade pads its short answers to ATA commands with what its buffer held before.
        let short = header.command == Command::Ata as u8 && theirs.len() <= MIN_FRAME;
        let sent = if short { ATA_LEN } else { theirs.len() - at };
        assert_eq!(ours.body()[..sent], theirs[at..at + sent], "{name}");
        if short && !header.flags.is_error() {
            assert!(
                ours.body()[sent..].iter().all(|b| *b == 0),
                "{name}: our padding is zeroes"
            );
        }
    }
    assert_eq!(
        target.disk().bytes[100 * SECTOR..102 * SECTOR],
        pattern(2, 0x5a)
    );
    assert_eq!(target.disk().flushes, 2);
}

#[test]
fn announces_itself_unless_masked() {
    let mut target = target();
    let mut out = [0xee; 128];
    let len = target.announce(TARGET, &mut out).unwrap();
    let ours = Answer(out[..len].to_vec());
    let theirs = golden_frame("announce");
    let (expected, at) = Header::parse(&theirs).unwrap();
    assert_eq!(
        ours.header(),
        Header {
            version: 1,
            ..expected
        }
    );
    assert_eq!(ours.body()[..8], theirs[at..]);
    assert_eq!(len, MIN_FRAME);
    assert_eq!(target.announce(TARGET, &mut out[..59]), None);
    mask(
        &mut target,
        mask_cmd::EDIT,
        &[Directive::new(directive_cmd::ADD, INITIATOR)],
    );
    assert_eq!(target.announce(TARGET, &mut out), None);
}

#[test]
fn who_is_meant() {
    let read = Query::request(QueryCmd::Read, b"");
    let mut target = target();
    let base = header(INITIATOR, Command::Query);
    let addr = |shelf, slot| ShelfSlot { shelf, slot };
    let cases = [
        (base, true),
        (
            Header {
                addr: ShelfSlot::ALL,
                dst: Mac::BROADCAST,
                ..base
            },
            true,
        ),
        (
            Header {
                addr: addr(7, 0xff),
                ..base
            },
            true,
        ),
        (
            Header {
                addr: addr(0xffff, 3),
                ..base
            },
            true,
        ),
        (
            Header {
                addr: addr(0xffff, 4),
                ..base
            },
            false,
        ),
        (
            Header {
                addr: addr(8, 0xff),
                ..base
            },
            false,
        ),
        (Header { dst: OTHER, ..base }, false),
        (
            Header {
                src: Mac::BROADCAST,
                ..base
            },
            false,
        ),
        (
            Header {
                flags: Flags::RESPONSE,
                ..base
            },
            false,
        ),
    ];
    for (header, answered) in cases {
        let frame = request(header, |out| read.emit(out));
        let answer = respond(&mut target, &frame);
        assert_eq!(answer.is_some(), answered, "{header:?}");
        if let Some(answer) = answer {
            assert_eq!(
                (answer.header().addr, answer.header().dst),
                (LUN, INITIATOR)
            );
            assert_eq!(answer.header().src, TARGET);
        }
    }
    assert!(target.respond(&[0; 60], TARGET, &mut [0; 60]).is_none());
}

#[test]
fn a_tagged_request_gets_a_tagged_answer() {
    let mut target = target();
    let header = Header {
        vlan: Some(0xa064),
        ..header(INITIATOR, Command::Ata)
    };
    let frame = request(header, |out| read_command(4, 2, true).emit(out));
    let answer = respond(&mut target, &frame).unwrap();
    assert_eq!(answer.header().vlan, Some(0xa064));
    assert_eq!(answer.0.len(), 28 + ATA_LEN + 2 * SECTOR);
    assert_eq!(answer.ata().1, pattern(2, 4));
}

#[test]
fn other_versions_get_error_5() {
    let mut target = target();
    let header = Header {
        version: 2,
        ..header(INITIATOR, Command::Query)
    };
    let frame = request(header, |out| Query::request(QueryCmd::Read, b"").emit(out));
    let answer = respond(&mut target, &frame).unwrap();
    assert_eq!(answer.error(), Some(AoeError::UnsupportedVersion));
    assert_eq!(answer.header().version, 1);
}

#[test]
fn identify_tells_what_the_target_does() {
    let mut target = target();
    target.disk_mut().trim = true;
    target.config_mut().wwn = Some(0x5000_c500_0000_0001);
    target.config_mut().physical_sector = 4096;
    let answer = ata(&mut target, identify_command(), &[]);
    let identify = Identify::parse(answer.ata().1).unwrap();
    assert_eq!(
        (identify.sectors, identify.serial_str()),
        (SECTORS, "7.3:gold".into())
    );
    assert!(identify.lba48 && identify.flush && identify.flush_ext && identify.write_cache);
    assert!(identify.trim && identify.trim_zeroes);
    assert_eq!(identify.wwn, Some(0x5000_c500_0000_0001));
    assert_eq!(identify.physical_sector, 4096);

    for sectors in [0, 2] {
        let answer = ata(
            &mut target,
            AtaHeader {
                sectors,
                ..identify_command()
            },
            &[],
        );
        assert_eq!(
            answer.error(),
            Some(AoeError::BadArgument),
            "IDENTIFY is one sector"
        );
    }
}

#[test]
fn transfers_stay_within_disk_and_frame() {
    let mut target = target();
    let data = pattern(2, 9);
    for lba48 in [false, true] {
        let end = SECTORS - 1;
        assert_eq!(
            ata(&mut target, read_command(end, 1, lba48), &[]).status(),
            DONE
        );
        let answer = ata(&mut target, read_command(end, 2, lba48), &[]);
        assert_eq!((answer.status(), answer.0.len()), (NO_SECTOR, MIN_FRAME));
        assert_eq!(
            ata(&mut target, write_command(end, 2, lba48), &data).status(),
            NO_SECTOR
        );
        for sectors in [0, 3, 255] {
            let answer = ata(&mut target, read_command(0, sectors, lba48), &[]);
            assert_eq!(answer.error(), Some(AoeError::BadArgument), "{sectors}");
        }
        let answer = ata(&mut target, write_command(0, 2, lba48), &data[..1023]);
        assert_eq!(answer.error(), Some(AoeError::BadArgument));
    }
    let answer = ata(&mut target, read_command((1 << 48) - 1, 2, true), &[]);
    assert_eq!(answer.status(), NO_SECTOR);
    assert!(
        target.disk().bytes[16 * SECTOR..].iter().all(|b| *b == 0),
        "nothing was written"
    );
    // A response that the host has no room for.
    let frame = ata_from(INITIATOR, read_command(0, 2, true), &[]);
    let mut out = [0; 1059];
    let len = target.respond(&frame, TARGET, &mut out).unwrap();
    assert_eq!(
        Answer(out[..len].to_vec()).error(),
        Some(AoeError::BadArgument)
    );
    assert_eq!(target.respond(&frame, TARGET, &mut [0; 59]), None);
    assert_eq!(target.stats().no_room, 1);
}

#[test]
fn writes_and_trims_reach_the_disk() {
    let mut target = target();
    let data = pattern(2, 77);
    let write = ata(&mut target, write_command(300, 2, true), &data);
    assert_eq!(
        (write.status(), write.ata().0.sectors, write.0.len()),
        (DONE, 0, MIN_FRAME)
    );
    assert!(
        write.ata().1.iter().all(|b| *b == 0),
        "the padding is zeroes"
    );
    assert_eq!(
        ata(&mut target, read_command(300, 2, true), &[]).ata().1,
        data
    );

    let mut ranges = [0; SECTOR];
    assert_eq!(emit_trim_ranges(&mut ranges, 301, 1), 1);
    assert_eq!(
        ata(&mut target, trim_command(), &ranges).status(),
        ABORTED,
        "not offered"
    );
    target.disk_mut().trim = true;
    assert_eq!(ata(&mut target, trim_command(), &ranges).status(), DONE);
    assert_eq!(
        target.disk().bytes[300 * SECTOR..301 * SECTOR],
        data[..SECTOR]
    );
    assert_eq!(target.disk().bytes[301 * SECTOR..302 * SECTOR], [0; SECTOR]);

    let no_trim = AtaHeader {
        feature_or_error: 0,
        ..trim_command()
    };
    assert_eq!(
        ata(&mut target, no_trim, &ranges).status(),
        ABORTED,
        "another use of DSM"
    );

    // One range is past the end: none is trimmed.
    emit_trim_ranges(&mut ranges, 300, 1);
    ranges[8..16].copy_from_slice(&(SECTORS | 1 << 48).to_le_bytes());
    assert_eq!(
        ata(&mut target, trim_command(), &ranges).status(),
        NO_SECTOR
    );
    assert_eq!(
        target.disk().bytes[300 * SECTOR..301 * SECTOR],
        data[..SECTOR]
    );

    target.disk_mut().read_only = true;
    assert_eq!(
        ata(&mut target, write_command(300, 2, true), &data).status(),
        ABORTED
    );
    assert_eq!(ata(&mut target, trim_command(), &ranges).status(), ABORTED);
    assert_eq!(
        (target.stats().sectors_written, target.stats().trims),
        (2, 1)
    );
}

#[test]
fn failures_of_the_disk() {
    let mut target = target();
    let uncorrectable = (ata_status::DRDY | ata_status::ERR, ata_error::UNC);
    let cases = [
        (DiskError::PastEnd, NO_SECTOR),
        (DiskError::Uncorrectable, uncorrectable),
        (DiskError::Fault, (ata_status::DRDY | ata_status::DF, 0)),
        (DiskError::Refused, ABORTED),
    ];
    for (failure, status) in cases {
        target.disk_mut().failure = Some(failure);
        let data = pattern(1, 0);
        for (command, data) in [
            (read_command(0, 1, true), &[][..]),
            (write_command(0, 1, true), &data),
            (flush_command(true), &[]),
        ] {
            let answer = ata(&mut target, command, data);
            assert_eq!(
                (answer.status(), answer.0.len()),
                (status, MIN_FRAME),
                "{failure}"
            );
            assert!(answer.ata().0.failed());
        }
    }
    let unknown = AtaHeader {
        command_or_status: 0xef,
        ..AtaHeader::default()
    };
    assert_eq!(ata(&mut target, unknown, &[]).status(), ABORTED);
}

#[test]
fn configuration_string() {
    let mut target = target();
    let string = |a: &Answer| Query::parse(a.body()).unwrap().string.to_vec();
    let set = query(&mut target, QueryCmd::SetIfEmpty, b"mine").unwrap();
    assert_eq!(string(&set), b"mine");
    assert!(
        query(&mut target, QueryCmd::SetIfEmpty, b"mine")
            .unwrap()
            .error()
            .is_none()
    );
    let refused = query(&mut target, QueryCmd::SetIfEmpty, b"yours").unwrap();
    assert_eq!(refused.error(), Some(AoeError::ConfigStringPresent));
    assert!(query(&mut target, QueryCmd::TestExact, b"mine").is_some());
    assert!(query(&mut target, QueryCmd::TestExact, b"min").is_none());
    assert!(query(&mut target, QueryCmd::TestPrefix, b"min").is_some());
    assert!(query(&mut target, QueryCmd::TestPrefix, b"mine!").is_none());
    assert!(query(&mut target, QueryCmd::Force, &[7; 1024]).is_some());
    assert_eq!(target.config_string(), [7; 1024]);
    assert_eq!(
        string(&query(&mut target, QueryCmd::Read, b"").unwrap()),
        [7; 1024]
    );
    target.restart();
    assert_eq!(
        string(&query(&mut target, QueryCmd::Read, b"").unwrap()),
        b""
    );

    let mut lying = golden_frame("config-set.request");
    lying[31] = 5;
    let answer = respond(&mut target, &lying).unwrap();
    assert_eq!(answer.error(), Some(AoeError::BadArgument));
    let mut lying = golden_frame("config-read.request");
    lying[30] = 0xff;
    let answer = respond(&mut target, &lying).unwrap();
    assert_eq!(
        answer.error(),
        None,
        "a length that means nothing is not looked at"
    );
}

#[test]
fn masks() {
    let add = |mac| Directive::new(directive_cmd::ADD, mac);
    let mut target = target();
    let answer = mask(&mut target, mask_cmd::EDIT, &[add(INITIATOR), add(OTHER)]).unwrap();
    let (header, list) = MaskHeader::parse(answer.body()).unwrap();
    assert_eq!((header.error, list.len()), (mask_error::NONE, 2));
    let delete = Directive::new(directive_cmd::DELETE, INITIATOR);
    let bad = Directive::new(9, OTHER);
    let answer = mask(&mut target, mask_cmd::EDIT, &[delete, bad]).unwrap();
    let (header, list) = MaskHeader::parse(answer.body()).unwrap();
    let expected = (mask_error::BAD_DIRECTIVE, 1, 0);
    assert_eq!((header.error, header.count, list.len()), expected);
    // The deletion stays done: the sender has locked itself out.
    assert!(mask(&mut target, mask_cmd::READ, &[]).is_none());
    assert_eq!(
        (target.masks(), target.stats().ignored_masked),
        (&[OTHER][..], 1)
    );

    target.restart();
    let mut frame = golden_frame("mask-add.request");
    frame[26] = mask_error::FULL;
    respond(&mut target, &frame).unwrap();
    assert_eq!(
        target.masks(),
        [INITIATOR, OTHER],
        "the error byte of a request means nothing"
    );

    target.restart();
    let many: Vec<_> = (0..255).map(|i| add(Mac([2, 0, 0, 1, 0, i]))).collect();
    let many: Vec<_> = std::iter::once(add(INITIATOR)).chain(many).collect();
    let answer = mask(&mut target, mask_cmd::EDIT, &many[..255]).unwrap();
    assert_eq!(MaskHeader::parse(answer.body()).unwrap().1.len(), 255);
    let answer = mask(&mut target, mask_cmd::EDIT, &many[254..]).unwrap();
    let (header, _) = MaskHeader::parse(answer.body()).unwrap();
    assert_eq!((header.error, header.count), (mask_error::FULL, 1));
    assert_eq!(
        mask(&mut target, 7, &[]).unwrap().error(),
        Some(AoeError::BadArgument),
        "unknown command"
    );
}

#[test]
fn reservations() {
    let mut target = target();
    let macs = |a: &Answer| Reserve::parse(a.body()).unwrap().macs.to_vec();
    let set = reserve(&mut target, INITIATOR, ReserveCmd::Set, &[INITIATOR]);
    assert_eq!(macs(&set), [INITIATOR]);
    let refused = reserve(&mut target, OTHER, ReserveCmd::Set, &[OTHER]);
    assert_eq!(refused.error(), Some(AoeError::TargetReserved));
    assert_eq!(
        macs(&reserve(&mut target, OTHER, ReserveCmd::Read, &[])),
        [INITIATOR]
    );
    let reserved = |target: &mut Target<MemDisk>, command| {
        respond(target, &ata_from(OTHER, command, &[]))
            .unwrap()
            .error()
    };
    for command in [
        read_command(0, 1, true),
        flush_command(false),
        AtaHeader::default(),
    ] {
        assert_eq!(
            reserved(&mut target, command),
            Some(AoeError::TargetReserved)
        );
    }
    assert_eq!(reserved(&mut target, identify_command()), None);
    assert_eq!(
        ata(&mut target, read_command(0, 1, true), &[]).status(),
        DONE
    );
    reserve(&mut target, OTHER, ReserveCmd::ForceSet, &[]);
    assert_eq!(reserved(&mut target, read_command(0, 1, true)), None);
    assert!(target.reservations().is_empty());
}

proptest! {
    #[test]
    fn no_frame_panics(
        frames in vec((vec(any::<u8>(), 0..600), 0u8..5, 0u8..12, any::<u8>()), 1..8),
        room in prop_oneof![0usize..80, 1000usize..4096],
        max_sectors: u8,
    ) {
        let mut target = Target::new(TargetConfig::new(LUN), MemDisk::new(64));
        target.config_mut().max_sectors = max_sectors;
        target.disk_mut().trim = true;
        let mut out = vec![0; room];
        for (mut frame, command, code, vlan) in frames {
            // Random bytes alone would not get past the header.
            let vlan = (vlan & 1 == 0).then_some(1);
            let request = Header { command, vlan, ..header(INITIATOR, Command::Ata) };
            let _ = request.emit(&mut frame);
            let commands = [0x06, 0x20, 0x24, 0x30, 0x34, 0xe5, 0xe7, 0xea, 0xec];
            if let (0, Some(byte)) = (command, frame.get_mut(request.len() + 3)) {
                *byte = commands.get(usize::from(code)).copied().unwrap_or(code);
            }
            if let Some(len) = target.respond(&frame, TARGET, &mut out) {
                prop_assert!((MIN_FRAME..=out.len()).contains(&len));
            }
        }
    }

    #[test]
    fn the_disk_is_what_the_writes_left(
        commands in vec((any::<bool>(), 0u64..34, 0u8..5, any::<u8>()), 1..40),
    ) {
        let mut target = Target::new(TargetConfig::new(LUN), MemDisk::new(32));
        target.config_mut().max_sectors = 4;
        let mut oracle = vec![0; 32 * SECTOR];
        for (write, lba, sectors, salt) in commands {
            let at = lba as usize * SECTOR;
            let range = at..at + usize::from(sectors) * SECTOR;
            let valid = sectors > 0 && range.end <= oracle.len();
            let answer = if write {
                let data = pattern(sectors.into(), salt.into());
                if valid {
                    oracle[range.clone()].copy_from_slice(&data);
                }
                ata(&mut target, write_command(lba, sectors, true), &data)
            } else {
                ata(&mut target, read_command(lba, sectors, true), &[])
            };
            if sectors == 0 {
                prop_assert_eq!(answer.error(), Some(AoeError::BadArgument));
            } else {
                prop_assert_eq!(answer.status(), if valid { DONE } else { NO_SECTOR });
            }
            if valid && !write {
                prop_assert_eq!(answer.ata().1, &oracle[range]);
            }
        }
        prop_assert_eq!(&target.disk().bytes, &oracle);
    }
}
