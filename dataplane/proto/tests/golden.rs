//! Real frames of vblade, recorded by golden/capture.py: each parses into what it means, and each
//! request is emitted again byte for byte.

mod common;

use aoe_proto::wire::ata::{flush_command, identify_command, read_command, write_command};
use aoe_proto::wire::mask::{directive_cmd, mask_cmd, mask_error};
use aoe_proto::wire::*;
use aoe_proto::{Mac, ShelfSlot, Tag};
use common::*;

/// Parses a frame and emits it again from what was parsed; trailing padding is put back.
fn reemit(frame: &[u8]) -> Vec<u8> {
    let (header, at) = Header::parse(frame).unwrap();
    let mut out = vec![0xee; 2048];
    assert_eq!(header.emit(&mut out), Ok(at));
    let (body, room) = (&frame[at..], &mut out[at..]);
    let len = match Command::try_from(header.command) {
        Ok(Command::Ata) => {
            let (ata, data) = AtaHeader::parse(body).unwrap();
            let len = ata.emit(room).unwrap();
            room[len..len + data.len()].copy_from_slice(data);
            len + data.len()
        }
        Ok(Command::Query) => Query::parse(body).unwrap().emit(room).unwrap(),
        Ok(Command::Mask) => {
            let (mask, directives) = MaskHeader::parse(body).unwrap();
            mask.emit(directives, room).unwrap()
        }
        Ok(Command::Reserve) => Reserve::parse(body).unwrap().emit(room).unwrap(),
        Err(_) => {
            room[..body.len()].copy_from_slice(body);
            body.len()
        }
    };
    out.truncate(at + len);
    out
}

#[test]
fn every_frame_is_emitted_again_byte_for_byte() {
    for Golden { name, frame } in golden() {
        if let Some(frame) = frame {
            assert_eq!(reemit(&frame), frame, "{name}");
        }
    }
}

#[test]
fn headers_mean_what_they_should() {
    let (announce, _) = Header::parse(&golden_frame("announce")).unwrap();
    assert_eq!(announce.version, 0, "vblade's announcement has no version");
    assert_eq!((announce.dst, announce.tag), (Mac::BROADCAST, Tag(0)));
    let (discover, at) = Header::parse(&golden_frame("discover.request")).unwrap();
    assert_eq!(at, HEADER_LEN);
    let expected = Header::request(
        Mac::BROADCAST,
        INITIATOR,
        ShelfSlot::ALL,
        Command::Query,
        Tag(0x1001),
    );
    assert_eq!(discover, expected);

    for pair in golden()[1..].chunks(2) {
        let [request, response] = pair else {
            unreachable!()
        };
        let Some(answer) = &response.frame else {
            continue;
        };
        let (request, _) = Header::parse(request.frame.as_ref().unwrap()).unwrap();
        let (answer, _) = Header::parse(answer).unwrap();
        assert!(answer.flags.is_response() && !request.flags.is_response());
        assert_eq!(
            (answer.src, answer.dst, answer.addr),
            (TARGET, INITIATOR, LUN)
        );
        assert_eq!((answer.tag, answer.command), (request.tag, request.command));
    }
}

#[test]
fn errors_of_the_aoe_layer() {
    let expected = [
        ("read-too-many", AoeError::BadArgument),
        ("write-short", AoeError::BadArgument),
        ("config-set-refused", AoeError::ConfigStringPresent),
        ("config-unknown", AoeError::BadArgument),
        ("reserved-read", AoeError::TargetReserved),
        ("reserved-set", AoeError::TargetReserved),
        ("unknown-command", AoeError::UnrecognisedCommand),
    ];
    for Golden { name, frame } in golden() {
        let Some(frame) = frame else { continue };
        let (header, _) = Header::parse(&frame).unwrap();
        let name = name.trim_end_matches(".response");
        let error = expected.iter().find(|e| e.0 == name).map(|e| e.1);
        let found = header
            .flags
            .is_error()
            .then(|| AoeError::from_code(header.error));
        assert_eq!(found, error, "{name}");
    }
}

#[test]
fn silences() {
    let silent: Vec<_> = golden().into_iter().filter(|g| g.frame.is_none()).collect();
    let names: Vec<_> = silent.iter().map(|g| g.name).collect();
    assert_eq!(
        names,
        ["check-power-one.response", "config-exact-mismatch.response"]
    );
}

fn ata(name: &str) -> (AtaHeader, Vec<u8>) {
    let frame = golden_frame(name);
    let (header, at) = Header::parse(&frame).unwrap();
    assert_eq!(header.command, Command::Ata as u8);
    let (ata, data) = AtaHeader::parse(&frame[at..]).unwrap();
    (ata, data.to_vec())
}

#[test]
fn our_ata_requests_are_the_recorded_ones() {
    let expected = [
        ("identify.request", identify_command()),
        ("read-ext.request", read_command(4, 2, true)),
        ("read-28.request", read_command(5, 1, false)),
        ("read-last.request", read_command(SECTORS - 1, 1, true)),
        ("write-ext.request", write_command(100, 2, true)),
        ("write-28.request", write_command(102, 1, false)),
        ("flush.request", flush_command(false)),
        ("flush-ext.request", flush_command(true)),
    ];
    for (name, command) in expected {
        assert_eq!(ata(name).0, command, "{name}");
    }
    assert_eq!(ata("read-28.request").0.lba28(), 5);
    assert_eq!(ata("write-ext.request").1, pattern(2, 0x5a));
    assert_eq!(ata("write-28.request").1, pattern(1, 0xc3));
}

#[test]
fn ata_answers() {
    use ata_error::{ABRT, IDNF};
    use ata_status::{DRDY, ERR};
    // Name, status, error, sector count, bytes behind the ATA header.
    let expected = [
        ("identify", DRDY, 0, 0, 512),
        ("read-ext", DRDY, 0, 0, 1024),
        ("read-28", DRDY, 0, 0, 512),
        ("read-last", DRDY, 0, 0, 512),
        // No data and no padding: 36 bytes.
        ("read-past-end", DRDY | ERR, IDNF, 2, 0),
        ("read-none", DRDY, 0, 0, 24),
        ("write-ext", DRDY, 0, 0, 24),
        ("write-28", DRDY, 0, 0, 24),
        // Success without DRDY.
        ("flush", 0, 0, 0, 24),
        ("flush-ext", DRDY | ERR, ABRT, 0, 24),
        ("check-power", DRDY, 0, 0xff, 24),
    ];
    for (name, status, error, sectors, len) in expected {
        let (ata, data) = ata(&format!("{name}.response"));
        let found = (
            ata.command_or_status,
            ata.feature_or_error,
            ata.sectors,
            data.len(),
        );
        assert_eq!(found, (status, error, sectors, len), "{name}");
        assert_eq!(ata.failed(), status & ERR != 0, "{name}");
    }
    assert_eq!(ata("read-ext.response").1, pattern(2, 4));
    assert_eq!(ata("read-28.response").1, pattern(1, 5));
    assert_eq!(ata("read-written.response").1, pattern(1, 0xc3));
    // vblade answers in the request's buffer, so what pads an answer is old payload.
    assert_eq!(ata("write-28.response").1, pattern(1, 0xc3)[..24]);
    assert_eq!(ata("flush.response").1, pattern(1, 0xc3)[..24]);
}

#[test]
fn identify() {
    let identify = Identify::parse(&ata("identify.response").1).unwrap();
    assert_eq!(identify.serial_str(), "7.3:gold");
    assert_eq!(identify.firmware_str(), "V25");
    assert_eq!(identify.model_str(), "Coraid EtherDrive vblade");
    assert_eq!((identify.lba48, identify.sectors), (true, SECTORS));
    // It offers FLUSH CACHE alone, and says that its write cache is off.
    assert_eq!(
        (identify.flush, identify.flush_ext, identify.write_cache),
        (true, false, false)
    );
    assert_eq!(
        (identify.trim, identify.trim_zeroes, identify.wwn),
        (false, false, None)
    );
    assert_eq!(
        (identify.logical_sector, identify.physical_sector),
        (512, 512)
    );
}

fn body(name: &str) -> Vec<u8> {
    golden_frame(name)[HEADER_LEN..].to_vec()
}

#[test]
fn queries() {
    let answer = |ccmd: QueryCmd, string| Query::response(16, 0x4019, 2, ccmd as u8, string);
    let expected: [(&str, Query); 8] = [
        ("announce", answer(QueryCmd::Read, b"")),
        ("discover.response", answer(QueryCmd::Read, b"")),
        (
            "config-set.request",
            Query::request(QueryCmd::SetIfEmpty, b"gold"),
        ),
        (
            "config-set-again.response",
            answer(QueryCmd::SetIfEmpty, b"gold"),
        ),
        (
            "config-set-refused.response",
            answer(QueryCmd::SetIfEmpty, b"gold"),
        ),
        ("config-read.response", answer(QueryCmd::Read, b"gold")),
        (
            "config-prefix.response",
            answer(QueryCmd::TestPrefix, b"gold"),
        ),
        ("config-force.response", answer(QueryCmd::Force, b"silver")),
    ];
    for (name, query) in expected {
        assert_eq!(Query::parse(&body(name)), Ok(query), "{name}");
    }
    // Neither padded nor long enough for Ethernet: 32 bytes.
    assert_eq!(golden_frame("discover.response").len(), 32);
}

#[test]
fn masks() {
    let entry = |mac| Directive::new(directive_cmd::NOP, mac);
    let add = |mac| Directive::new(directive_cmd::ADD, mac);
    let parse = |name: &str| {
        let body = body(name);
        let (header, directives) = MaskHeader::parse(&body).unwrap();
        (
            header.command,
            header.error,
            header.count,
            directives.to_vec(),
        )
    };
    let none = mask_error::NONE;
    assert_eq!(
        parse("mask-read-empty.response"),
        (mask_cmd::READ, none, 0, vec![])
    );
    let request = vec![add(INITIATOR), add(OTHER), entry(OTHER)];
    assert_eq!(
        parse("mask-add.request"),
        (mask_cmd::EDIT, none, 3, request)
    );
    let list = vec![entry(INITIATOR), entry(OTHER)];
    assert_eq!(
        parse("mask-add.response"),
        (mask_cmd::EDIT, none, 2, list.clone())
    );
    assert_eq!(parse("mask-read.response"), (mask_cmd::READ, none, 2, list));
    // The count says how many directives were done, and none follow.
    let bad = (mask_cmd::EDIT, mask_error::BAD_DIRECTIVE, 1, vec![]);
    assert_eq!(parse("mask-bad-directive.response"), bad);
}

#[test]
fn reservations() {
    let expected: [(&str, ReserveCmd, &[Mac]); 7] = [
        ("reserve-read-empty.response", ReserveCmd::Read, &[]),
        ("reserve-set.request", ReserveCmd::Set, &[INITIATOR]),
        ("reserve-set.response", ReserveCmd::Set, &[INITIATOR]),
        ("reserve-read.response", ReserveCmd::Read, &[INITIATOR]),
        (
            "reserve-force-other.response",
            ReserveCmd::ForceSet,
            &[OTHER],
        ),
        // The refusal tells who holds it.
        ("reserved-set.response", ReserveCmd::Set, &[OTHER]),
        ("reserve-release.response", ReserveCmd::ForceSet, &[]),
    ];
    for (name, command, macs) in expected {
        let expected = Reserve {
            command: command as u8,
            macs,
        };
        assert_eq!(Reserve::parse(&body(name)), Ok(expected), "{name}");
    }
}
