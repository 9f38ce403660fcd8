//! The initiator against real targets on a good wire: what a caller asked for is what it gets.

mod harness;

use aoe_proto::initiator::{
    Config, ConfigError, Event, Initiator, IoError, LunId, LunState, Op, PortInfo, SubmitError,
};
use aoe_proto::wire::ata_cmd;
use harness::*;

/// Takes the LBA48 feature set out of IDENTIFY answers.
fn lba28(way: Way, frame: &mut [u8]) -> Fate {
    if way == Way::ToInitiator && has_data(frame, 1) {
        edit_identify(frame, |word, value| match word {
            83 | 86 => value & !(1 << 10 | 1 << 13),
            100..=103 => 0,
            _ => value,
        });
    }
    Fate::Pass
}

fn all_operations(mtu: u32, is_lba28: bool) {
    let mut sim = Sim::with_ports(config(), &[mtu]);
    sim.add_target(at(1, 1), 1 << 20);
    if is_lba28 {
        sim.on_wire(|way, frame| lba28(way, frame));
    }
    let lun = sim.up(at(1, 1));
    sim.no_faults();
    let info = sim.init.lun(lun).unwrap();
    assert_eq!(info.sectors, 1 << 20);
    assert_eq!(info.identify.unwrap().lba48, !is_lba28);
    assert_eq!(info.sectors_per_frame, (mtu - 22) / 512);
    assert!(sim.has_event(&Event::Up {
        lun,
        changed: false
    }));
    for (lba, sectors) in [(0, 1), (7, 100), ((1 << 20) - 33, 33)] {
        let user = sim.write(lun, lba, sectors);
        assert_eq!(sim.wait(user), Ok(()));
        let user = sim.read(lun, lba, sectors);
        assert_eq!(sim.wait(user), Ok(()));
        assert_eq!(sim.disk(0).sector(lba), content(lba, user - 1));
    }
    let user = sim.submit(lun, Op::Flush, 0, 0).unwrap();
    assert_eq!(sim.wait(user), Ok(()));
    assert_eq!(sim.disk(0).flushes, 1);
    let user = sim.submit(lun, Op::Trim, 77, 70_000).unwrap();
    assert_eq!(sim.wait(user), Ok(()));
    assert_eq!(
        sim.disk(0).trimmed,
        [(77, 65_535), (77 + 65_535, 70_000 - 65_535)]
    );
    let (write, read, flush) = match is_lba28 {
        true => (ata_cmd::WRITE, ata_cmd::READ, ata_cmd::FLUSH),
        false => (ata_cmd::WRITE_EXT, ata_cmd::READ_EXT, ata_cmd::FLUSH_EXT),
    };
    for command in [write, read, flush] {
        assert!(!sim.sent_ata(command).is_empty(), "{command:#x}");
    }
    sim.finish();
    assert_eq!(sim.init.counters().resends, 0);
    assert_eq!(sim.init.lun(lun).unwrap().stats.completed, 8);
}

#[test]
fn all_operations_with_standard_frames() {
    all_operations(1500, false);
}

#[test]
fn all_operations_with_jumbo_frames() {
    all_operations(9000, false);
}

#[test]
fn all_operations_on_a_disk_without_lba48() {
    all_operations(1500, true);
    all_operations(9000, true);
}

#[test]
fn sectors_beyond_32_bits_are_reached() {
    let (mut sim, lun) = Sim::one(config(), 1500, (1 << 48) - 1);
    let last = (1 << 48) - 1 - 8;
    for lba in [(1 << 28) - 3, (1 << 32) - 3, last] {
        let user = sim.write(lun, lba, 8);
        assert_eq!(sim.wait(user), Ok(()));
        assert_eq!(sim.disk(0).sector(lba + 7), content(lba + 7, user));
        let user = sim.read(lun, lba, 8);
        assert_eq!(sim.wait(user), Ok(()));
    }
    let past = sim.submit(lun, Op::Read, last, 9);
    let capacity = (1 << 48) - 1;
    assert_eq!(
        past,
        Err(SubmitError::OutOfRange {
            lba: last,
            sectors: 9,
            capacity
        })
    );
    sim.finish();
}

#[test]
fn splits_cover_the_io_once_and_end_on_whole_pages() {
    let (mut sim, lun) = Sim::one(config(), 9000, 10_000);
    for start in [0, 1, 5, 13] {
        let before = sim.sent.len();
        let user = sim.read(lun, start, 100);
        assert_eq!(sim.wait(user), Ok(()));
        let pieces: Vec<_> = sim.sent[before..]
            .iter()
            .map(|s| s.info.ata.unwrap())
            .collect();
        let mut next = start;
        for piece in &pieces {
            assert_eq!(piece.lba, next);
            assert!((1..=17).contains(&piece.sectors));
            next += u64::from(piece.sectors);
            assert!(next.is_multiple_of(8) || next == start + 100);
        }
        assert_eq!(next, start + 100);
    }
    sim.finish();
}

#[test]
fn luns_share_the_wire_fairly() {
    let mut sim = Sim::new(Config {
        ios: 1024,
        slots: 1024,
        ..config()
    });
    let luns: Vec<LunId> = (0..32)
        .map(|slot| {
            let host = sim.add_target(at(3, slot), 10_000);
            sim.target_config(host).buffer_count = 1_000;
            sim.init.add_lun(at(3, slot)).unwrap()
        })
        .collect();
    for slot in 0..32 {
        sim.up(at(3, slot));
    }
    // The first LUN asks for very much before the others come.
    for i in 0..200 {
        sim.read(luns[0], i * 16, 16);
    }
    let first: Vec<u64> = luns[1..].iter().map(|&lun| sim.read(lun, 0, 32)).collect();
    sim.run_until(SEC, |sim| first.iter().all(|&user| sim.is_done(user)));
    let last = sim
        .order
        .iter()
        .rposition(|user| first.contains(user))
        .unwrap();
    let ahead = last + 1 - first.len();
    assert!(
        ahead <= 4,
        "{ahead} large reads of the first LUN were done before the others"
    );
    sim.finish();
    assert_eq!(sim.results.len(), 200 + 31);
}

#[test]
fn refused_submissions_leave_no_trace() {
    let mut sim = Sim::new(Config { ios: 2, ..config() });
    sim.add_target(at(1, 1), 1_000);
    let absent = sim.init.add_lun(at(9, 9)).unwrap();
    assert_eq!(sim.init.add_lun(at(9, 9)), Some(absent));
    assert_eq!(sim.init.add_lun(at(0xffff, 1)), None);
    assert_eq!(
        sim.submit(absent, Op::Read, 0, 1),
        Err(SubmitError::NotReady)
    );
    assert_eq!(
        sim.submit(LunId(40), Op::Read, 0, 1),
        Err(SubmitError::NoSuchLun)
    );
    let lun = sim.up(at(1, 1));
    for op in [Op::Read, Op::Write, Op::Trim] {
        assert_eq!(sim.submit(lun, op, 0, 0), Err(SubmitError::Empty));
        for lba in [1_000, 994, u64::MAX, u64::MAX - 6] {
            let past = SubmitError::OutOfRange {
                lba,
                sectors: 7,
                capacity: 1_000,
            };
            assert_eq!(sim.submit(lun, op, lba, 7), Err(past));
        }
    }
    let sectors = u32::MAX / 512 + 1;
    assert_eq!(
        sim.submit(lun, Op::Read, 0, sectors),
        Err(SubmitError::TooLarge { sectors })
    );
    assert_eq!((sim.init.in_flight(), sim.init.is_full()), (0, false));
    sim.read(lun, 0, 1);
    sim.read(lun, 0, 1);
    assert!(sim.init.is_full());
    assert_eq!(sim.submit(lun, Op::Read, 0, 1), Err(SubmitError::Busy));
    sim.run_until(SEC, |sim| sim.pending.is_empty());
    assert!(!sim.init.is_full());
    let again = sim.read(lun, 0, 1);
    assert_eq!(sim.wait(again), Ok(()));
}

#[test]
fn what_identify_does_not_offer_is_unsupported() {
    let mut sim = Sim::new(config());
    sim.add_target(at(1, 1), 1_000);
    sim.on_wire(|way, frame| {
        if way == Way::ToInitiator && has_data(frame, 1) {
            edit_identify(frame, |word, value| match word {
                83 | 86 => value & !(1 << 12 | 1 << 13),
                169 => 0,
                _ => value,
            });
        }
        Fate::Pass
    });
    let lun = sim.up(at(1, 1));
    for op in [Op::Flush, Op::Trim] {
        assert_eq!(sim.submit(lun, op, 0, 1), Err(SubmitError::Unsupported(op)));
    }
    sim.finish();
}

#[test]
fn a_flush_ignores_its_range() {
    let (mut sim, lun) = Sim::one(config(), 1500, 1_000);
    let user = sim.submit(lun, Op::Flush, u64::MAX, u32::MAX).unwrap();
    assert_eq!(sim.wait(user), Ok(()));
    assert_eq!(sim.disk(0).flushes, 1);
    sim.finish();
}

#[test]
fn the_largest_trim_covers_all_of_it() {
    let (mut sim, lun) = Sim::one(config(), 1500, 1 << 40);
    let user = sim.submit(lun, Op::Trim, 5, u32::MAX).unwrap();
    assert_eq!(sim.wait(user), Ok(()));
    let mut next = 5;
    sim.disk(0).trimmed.sort_unstable();
    for &(lba, sectors) in &sim.disk(0).trimmed {
        assert_eq!(lba, next);
        next += sectors;
    }
    assert_eq!(next, 5 + u64::from(u32::MAX));
    sim.finish();
}

#[test]
fn table_sizes_of_zero_are_errors_or_harmless() {
    let make = |config: Config| Initiator::new(config).map(|_| ());
    for slots in [0, 1, 31, (1 << 24) + 1, u32::MAX] {
        let refused = make(Config { slots, ..config() });
        assert_eq!(refused, Err(ConfigError::Slots { slots, cores: 1 }));
    }
    assert_eq!(make(Config { ios: 0, ..config() }), Err(ConfigError::Ios));
    let refused = make(Config {
        core: 2,
        cores: 2,
        ..config()
    });
    assert_eq!(refused, Err(ConfigError::Core { core: 2, cores: 2 }));
    assert_eq!(
        make(Config {
            cores: 0,
            ..config()
        }),
        Ok(())
    );

    let mut none = Initiator::new(Config {
        luns: 0,
        ..config()
    })
    .unwrap();
    assert_eq!(none.add_lun(at(1, 1)), None);
    let info = PortInfo {
        mac: port_mac(0),
        mtu: 1500,
        vlan: None,
    };
    for port in 0..8 {
        assert_eq!(none.add_port(info), Ok(port));
    }
    assert_eq!(none.add_port(info), Err(ConfigError::Ports));
}

#[test]
fn zero_intervals_and_a_zero_window_still_work() {
    let odd = Config {
        window_max: 0,
        probe_interval_ns: 0,
        frame_lifetime_ns: 0,
        pause_ns: 2 * MS,
        cores: 0,
        ..config()
    };
    let (mut sim, lun) = Sim::one(
        Config {
            discovery_interval_ns: SEC,
            ..odd
        },
        1500,
        1_000,
    );
    assert_eq!(sim.init.lun(lun).unwrap().window, 1);
    let user = sim.write(lun, 0, 100);
    assert_eq!(sim.wait(user), Ok(()));
    assert_eq!(sim.max_open[&at(1, 1)], 1);
    sim.finish();
}

#[test]
fn a_table_with_no_luns_takes_no_luns() {
    let mut sim = Sim::new(Config {
        luns: 0,
        ..config()
    });
    sim.add_target(at(1, 1), 1_000);
    sim.run(SEC);
    assert_eq!(sim.init.luns().count(), 0);
    assert!(
        sim.init
            .drops()
            .get(aoe_proto::initiator::DropReason::Unwanted)
            > 0
    );
}

#[test]
fn abort_all_completes_everything_once() {
    let (mut sim, lun) = Sim::one(config(), 1500, 100_000);
    sim.wire_ns = 5 * MS;
    let users: Vec<u64> = (0..40).map(|i| sim.write(lun, i * 100, 20)).collect();
    sim.run(2 * MS);
    assert!(sim.results.is_empty());
    sim.init.abort_all();
    sim.turn_at_once();
    assert!(
        users
            .iter()
            .all(|user| sim.results.get(user) == Some(&Err(IoError::Aborted)))
    );
    sim.finish();
    assert_eq!(sim.init.lun(lun).unwrap().stats.failed, 40);
    // The LUN is still up, and takes I/O.
    let user = sim.read(lun, 50_000, 20);
    assert_eq!(sim.wait(user), Ok(()));
    sim.finish();
}

#[test]
fn abort_all_does_not_lose_a_lun_that_is_coming_up() {
    let mut sim = Sim::new(config());
    sim.add_target(at(1, 1), 1_000);
    sim.run_until(SEC, |sim| {
        sim.init.luns().any(|l| l.state == LunState::Identifying)
    });
    sim.init.abort_all();
    sim.up(at(1, 1));
    sim.finish();
}
