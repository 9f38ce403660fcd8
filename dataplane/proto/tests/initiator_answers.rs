//! Answers that are wrong, refused, late, doubled or forged.

mod harness;

use aoe_proto::initiator::{Config, DropReason, Event, IoError, LunId, LunState, Op, Received};
use aoe_proto::wire::{AoeError, Flags, ata_cmd, ata_error, ata_status};
use aoe_proto::{Mac, Tag};
use harness::*;

/// A LUN with one read of 2 sectors in flight, whose good answer is held back and returned.
fn held_answer() -> (Sim, LunId, u64, Vec<u8>) {
    let (mut sim, lun) = Sim::one(config(), 1500, 1_000);
    sim.record_received = true;
    let user = sim.read(lun, 0, 2);
    sim.on_wire(|_, _| Fate::Delay(10 * MS));
    sim.turn();
    sim.on_wire(|_, _| Fate::Drop);
    // The request is on its way; its answer is made here.
    let request = sim.sent.last().unwrap().info;
    let mut frame = vec![0; 36];
    let mut header = request.header;
    (header.dst, header.src) = (header.src, header.dst);
    header.flags = Flags::RESPONSE;
    let at = header.emit(&mut frame).unwrap();
    let mut ata = request.ata.unwrap();
    (ata.command_or_status, ata.sectors) = (ata_status::DRDY, 0);
    ata.emit(&mut frame[at..]).unwrap();
    frame.extend(contents(0, 2, 0));
    (sim, lun, user, frame)
}

/// A bad version of the answer is dropped and counted, then the good one completes the I/O.
fn dropped_then_completed(why: DropReason, spoil: impl FnOnce(&mut Vec<u8>)) {
    let (mut sim, _, user, good) = held_answer();
    let mut bad = good.clone();
    spoil(&mut bad);
    let before = sim.init.drops().get(why);
    assert_eq!(sim.inject(&bad), Received::Done, "{why:?}");
    let counts: Vec<_> = sim.init.drops().iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(
        sim.init.drops().get(why),
        before + 1,
        "{why:?} of {counts:?}"
    );
    assert_eq!(
        sim.pending[&user].buffer,
        vec![harness::POISON; 1024],
        "no byte is copied"
    );
    assert!(matches!(sim.inject(&good), Received::Data { .. }));
    sim.turn_at_once();
    assert_eq!(sim.results.get(&user), Some(&Ok(())));
    sim.no_faults();
    sim.finish();
}

#[test]
fn hazard_10_right_tag_wrong_mac() {
    let stranger = Mac([2, 9, 9, 9, 9, 9]);
    dropped_then_completed(DropReason::WrongMac, |f| {
        edit_header(f, |h| h.src = stranger)
    });
}

#[test]
fn hazard_10_right_tag_wrong_lun() {
    dropped_then_completed(DropReason::WrongLun, |f| {
        edit_header(f, |h| h.addr.slot = 2)
    });
    dropped_then_completed(DropReason::WrongLun, |f| {
        edit_header(f, |h| h.addr.shelf = 0xffff)
    });
}

#[test]
fn hazard_10_right_tag_wrong_command() {
    for command in [2, 3, 0x80, 0xff] {
        dropped_then_completed(DropReason::WrongCommand, |f| {
            edit_header(f, |h| h.command = command);
        });
    }
}

#[test]
fn hazard_10_right_tag_but_a_config_answer() {
    let (mut sim, _, user, good) = held_answer();
    let mut config = good.clone();
    edit_header(&mut config, |h| h.command = 1);
    assert_eq!(sim.inject(&config), Received::Done);
    sim.turn_at_once();
    assert!(!sim.is_done(user));
    assert!(matches!(sim.inject(&good), Received::Data { .. }));
    sim.no_faults();
    sim.finish();
}

#[test]
fn hazard_10_right_tag_but_a_request_or_another_version() {
    dropped_then_completed(DropReason::Request, |f| {
        edit_header(f, |h| h.flags = Flags::REQUEST);
    });
    for version in [0, 2, 15] {
        dropped_then_completed(DropReason::Version, |f| {
            edit_header(f, |h| h.version = version)
        });
    }
}

#[test]
fn hazard_14_short_read_answers_copy_nothing() {
    for len in [36, 37, 60, 36 + 512, 36 + 1023] {
        dropped_then_completed(DropReason::ShortData, |f| f.truncate(len));
    }
    for len in [24, 25, 35] {
        dropped_then_completed(DropReason::Malformed, |f| f.truncate(len));
    }
    for len in [0, 1, 13, 14, 23] {
        dropped_then_completed(DropReason::NotAoe, |f| f.truncate(len));
    }
}

#[test]
fn hazard_14_padding_is_not_data() {
    let (mut sim, _, user, mut frame) = held_answer();
    frame.extend([0xee; 700]);
    let answer = sim.inject(&frame);
    assert!(
        matches!(
            answer,
            Received::Data {
                offset: 0,
                len: 1024,
                at: 36,
                ..
            }
        ),
        "{answer:?}"
    );
    sim.turn_at_once();
    assert_eq!(sim.results.get(&user), Some(&Ok(())));
}

#[test]
fn hazard_25_tagged_answers_to_untagged_requests() {
    let (mut sim, _, user, frame) = held_answer();
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0x00, 0x60, 0x07]);
    tagged.extend(&frame[12..]);
    let answer = sim.inject(&tagged);
    assert!(
        matches!(
            answer,
            Received::Data {
                len: 1024,
                at: 40,
                ..
            }
        ),
        "{answer:?}"
    );
    sim.turn_at_once();
    assert_eq!(sim.results.get(&user), Some(&Ok(())));
}

#[test]
fn hazard_25_everything_works_in_a_vlan() {
    let info = |vlan| aoe_proto::initiator::PortInfo {
        mac: port_mac(0),
        mtu: 9000,
        vlan,
    };
    for (vlan, strips) in [(Some(0x6123), false), (Some(0x6123), true), (None, false)] {
        let mut sim = Sim::with_port_infos(config(), vec![info(vlan)]);
        sim.add_target(at(1, 1), 1_000);
        sim.on_wire(move |way, frame| {
            if strips && way == Way::ToInitiator {
                frame.drain(12..16);
            }
            Fate::Pass
        });
        // 40 bytes are the least that a host must show.
        sim.head_len = 40;
        let lun = sim.up(at(1, 1));
        for op in [Op::Write, Op::Read, Op::Trim, Op::Flush] {
            let user = sim.submit(lun, op, 3, 100).unwrap();
            assert_eq!(sim.wait(user), Ok(()), "{op:?}");
        }
        assert!(sim.sent.iter().all(|s| s.info.header.vlan == vlan));
        sim.finish();
    }
}

/// An I/O whose answers are changed by `spoil` fails with this, at once and alone.
fn fails_at_once(op: Op, expected: IoError, spoil: impl Fn(&mut Vec<u8>) + 'static) {
    let (mut sim, lun) = Sim::one(config(), 1500, 1_000);
    let good = sim.read(lun, 100, 10);
    sim.wait(good).unwrap();
    sim.on_wire(move |way, frame| {
        if way == Way::ToInitiator && info(frame).header.command == 0 {
            spoil(frame);
        }
        Fate::Pass
    });
    // One sector: an error 2 on more is a matter of its own.
    let user = sim.submit(lun, op, 7, 1).unwrap();
    sim.run_until(2 * MS, |sim| sim.is_done(user));
    assert_eq!(sim.results[&user], Err(expected), "{op:?}");
    sim.no_faults();
    let good = sim.read(lun, 100, 10);
    assert_eq!(sim.wait(good), Ok(()));
    sim.finish();
    assert_eq!(sim.init.counters().resends, 0);
}

#[test]
fn hazard_12_each_aoe_error_fails_the_io_at_once() {
    for op in [Op::Read, Op::Write, Op::Flush, Op::Trim] {
        for code in [0, 1, 2, 3, 4, 5, 6, 7, 0xff] {
            let error = IoError::Aoe(AoeError::from_code(code));
            fails_at_once(op, error, move |f| make_error(f, code));
        }
    }
}

#[test]
fn hazard_13_ata_failures_copy_nothing() {
    let bits = [
        ata_status::ERR,
        ata_status::DF,
        ata_status::DRQ,
        ata_status::BSY,
        0xff,
    ];
    for op in [Op::Read, Op::Write, Op::Flush, Op::Trim] {
        for bit in bits {
            let status = ata_status::DRDY | bit;
            let error = ata_error::IDNF;
            fails_at_once(op, IoError::Ata { status, error }, move |f| {
                make_ata_failure(f, status, error);
            });
        }
    }
    // The data that comes with a failure is not copied either; the harness looks for it.
    let (status, error) = (ata_status::DRDY | ata_status::ERR, ata_error::UNC);
    fails_at_once(Op::Read, IoError::Ata { status, error }, move |f| {
        edit_ata(f, |a| {
            (a.command_or_status, a.feature_or_error) = (status, error)
        });
        f[36..].fill(0x11);
    });
}

#[test]
fn hazard_13_an_io_past_the_real_end_fails_and_the_rest_of_it_is_not_sent() {
    let (mut sim, lun) = Sim::one(config(), 1500, 1_000);
    sim.disk(0).sectors = 500;
    let user = sim.read(lun, 490, 500);
    let result = sim.wait(user);
    assert!(
        matches!(
            result,
            Err(IoError::Ata {
                error: ata_error::IDNF,
                ..
            })
        ),
        "{result:?}"
    );
    assert!(sim.sent_ata(ata_cmd::READ_EXT).len() < 100);
    sim.finish();
}

/// What a disk does that refuses FLUSH EXT, though IDENTIFY offers it.
fn aborts_flush_ext(flushes: usize) {
    let (mut sim, lun) = Sim::one(config(), 1500, 1_000);
    let mut ext_tags: Vec<Tag> = Vec::new();
    sim.on_wire(move |way, frame| {
        let tag = info(frame).header.tag;
        if way == Way::ToTarget && is_command(frame, ata_cmd::FLUSH_EXT) {
            ext_tags.push(tag);
        } else if way == Way::ToInitiator && ext_tags.contains(&tag) {
            make_ata_failure(frame, ata_status::DRDY | ata_status::ERR, ata_error::ABRT);
        }
        Fate::Pass
    });
    let users: Vec<u64> = (0..flushes)
        .map(|_| sim.submit(lun, Op::Flush, 0, 0).unwrap())
        .collect();
    for user in users {
        assert_eq!(sim.wait(user), Ok(()));
    }
    sim.finish();
    assert!(!sim.sent_ata(ata_cmd::FLUSH).is_empty());
}

#[test]
fn hazard_20_a_refused_flush_ext_becomes_a_flush() {
    aborts_flush_ext(1);
}

#[test]
fn hazard_20_two_refused_flush_exts_become_flushes() {
    aborts_flush_ext(2);
}

#[test]
fn hazard_22_forged_answers_complete_nothing() {
    let (mut sim, lun) = Sim::one(
        Config {
            luns: 4,
            ..config()
        },
        1500,
        1 << 20,
    );
    // Answers of all kinds, all of them stale by now.
    sim.record_received = true;
    for (op, sectors) in [
        (Op::Read, 20),
        (Op::Write, 20),
        (Op::Flush, 0),
        (Op::Trim, 9),
    ] {
        let user = sim.submit(lun, op, 50, sectors).unwrap();
        sim.wait(user).unwrap();
    }
    let mut seeds = std::mem::take(&mut sim.received);
    seeds.push(config_frame(
        sim.host_frame_dst(),
        host_mac(0),
        at(1, 1),
        1,
        0,
    ));
    sim.record_received = false;
    sim.run(5 * SEC);
    // Reads and writes in flight, none of which is ever answered.
    sim.on_wire(|_, _| Fate::Drop);
    let from = sim.sent.len();
    for i in 0..30 {
        let op = if i % 2 == 0 { Op::Read } else { Op::Write };
        sim.submit(lun, op, 1_000 + i * 100, 4).unwrap();
    }
    sim.turn();
    let rtt = sim.init.lun(lun).unwrap().rto_ns;
    let mut random = Random(7);
    for i in 0..1_000_000 {
        let frame = forge(&mut random, &seeds);
        let tag = tag_of(&frame);
        if sim.sent[from..]
            .iter()
            .any(|sent| tag == Some(sent.info.header.tag))
        {
            continue;
        }
        let answer = sim
            .init
            .received(0, &frame[..frame.len().min(1064)], frame.len());
        assert_eq!(answer, Received::Done, "forgery {i}: {frame:x?}");
    }
    assert_eq!(sim.init.next_completion(), None);
    assert_eq!(sim.init.in_flight(), 30);
    let info = sim.init.lun(lun).unwrap();
    assert_eq!(
        (info.rto_ns, info.state, info.mac),
        (rtt, LunState::Up, host_mac(0))
    );
    let used = sim.init.drops().total() + sim.init.counters().announcements;
    assert!(used > 900_000, "{used} of a million were looked at");
    sim.no_faults();
    sim.finish();
    assert!(sim.results.values().all(Result::is_ok));
}

fn tag_of(frame: &[u8]) -> Option<Tag> {
    aoe_proto::wire::Header::parse(frame)
        .ok()
        .map(|(header, _)| header.tag)
}

/// Random bytes, or a stale answer that was changed here and there.
fn forge(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    if random.chance(10) {
        let len = random.below(1_600) as usize;
        return (0..len).map(|_| random.word() as u8).collect();
    }
    let mut frame = seeds[random.below(seeds.len() as u64) as usize].clone();
    for _ in 0..random.below(4) {
        let at = random.below(frame.len().min(80) as u64) as usize;
        frame[at] = random.word() as u8;
    }
    if random.chance(50) {
        let tag = random.word() as u32;
        frame[20..24].copy_from_slice(&tag.to_be_bytes());
    }
    if random.chance(20) {
        frame.truncate(random.below(frame.len() as u64 + 1) as usize);
    }
    frame
}

/// A LUN whose first `count` IDENTIFY answers are spoilt comes up all the same.
fn identify_recovers(count: usize, spoil: impl Fn(&mut Vec<u8>) -> Fate + 'static) {
    let mut sim = Sim::new(config());
    sim.add_target(at(1, 1), 1_000);
    let mut left = count;
    sim.on_wire(move |way, frame| {
        if way == Way::ToInitiator && info(frame).header.command == 0 && left > 0 {
            left -= 1;
            return spoil(frame);
        }
        Fate::Pass
    });
    let lun = sim.up(at(1, 1));
    assert_eq!(sim.init.lun(lun).unwrap().sectors, 1_000);
    let user = sim.read(lun, 0, 10);
    assert_eq!(sim.wait(user), Ok(()));
    sim.finish();
}

#[test]
fn identify_is_tried_again_after_errors() {
    identify_recovers(3, |f| {
        make_error(f, 3);
        Fate::Pass
    });
    identify_recovers(3, |f| {
        make_ata_failure(f, ata_status::DRDY | ata_status::ERR, ata_error::ABRT);
        Fate::Pass
    });
    identify_recovers(3, |f| {
        f.truncate(60);
        Fate::Pass
    });
    identify_recovers(8, |_| Fate::Drop);
    // A disk of no sectors: nobody can use it.
    identify_recovers(2, |f| {
        edit_identify(f, |word, value| {
            if matches!(word, 60 | 61 | 100..) {
                0
            } else {
                value
            }
        });
        Fate::Pass
    });
}

#[test]
fn identify_failures_are_reported() {
    let mut sim = Sim::new(config());
    sim.add_target(at(1, 1), 1_000);
    sim.on_wire(|way, frame| {
        if way == Way::ToInitiator && info(frame).header.command == 0 {
            make_error(frame, 1);
        }
        Fate::Pass
    });
    sim.run(3 * SEC);
    let lun = sim.init.find_lun(at(1, 1)).unwrap();
    assert!(sim.has_event(&Event::IdentifyFailed { lun }));
    assert_eq!(sim.init.lun(lun).unwrap().state, LunState::Absent);
    // Paced: no IDENTIFY storm while the target refuses it.
    assert!(sim.sent_ata(ata_cmd::IDENTIFY).len() <= 10);
    sim.no_faults();
    sim.up(at(1, 1));
    sim.finish();
}
