//! What targets say of themselves: how much they take, who they are, and that it changes.

mod harness;

use aoe_proto::Mac;
use aoe_proto::initiator::{Config, Event, IoError, LunState, Op, SubmitError, TagLayout};
use aoe_proto::wire::{ata_cmd, ata_error};
use harness::*;
use std::collections::HashMap;

/// Reads and writes much at once to a target that says this, and counts what is unanswered at once.
fn window_is_respected(buffer_count: u16, window_max: u32, expected: usize) {
    let config = Config {
        window_max,
        slots: 1024,
        ios: 512,
        ..config()
    };
    let mut sim = Sim::with_ports(config, &[1500]);
    sim.add_target(at(1, 1), 1 << 20);
    sim.target_config(0).buffer_count = buffer_count;
    let lun = sim.up(at(1, 1));
    let mut random = Random(3);
    sim.on_wire(move |_, _| {
        if random.chance(3) {
            Fate::Drop
        } else {
            Fate::Pass
        }
    });
    for i in 0..400 {
        let op = if i % 2 == 0 { Op::Read } else { Op::Write };
        sim.submit(lun, op, i * 10, 4).unwrap();
    }
    sim.finish();
    assert!(sim.results.values().all(Result::is_ok));
    assert_eq!(
        sim.max_open[&at(1, 1)],
        expected,
        "buffer count {buffer_count}"
    );
}

#[test]
fn hazard_15_any_buffer_count_works_and_is_respected() {
    for (count, expected) in [(0, 1), (1, 1), (2, 2), (16, 16), (65_535, 64)] {
        window_is_respected(count, 64, expected);
    }
    window_is_respected(16, 4, 4);
}

#[test]
fn hazard_15_any_number_of_sectors_works() {
    for (mtu, max, expected) in [
        (1500, 0, 1),
        (9000, 0, 1),
        (1500, 255, 2),
        (9000, 255, 17),
        (576, 255, 1),
        (9000, 9, 9),
    ] {
        let mut sim = Sim::with_ports(config(), &[mtu]);
        sim.add_target(at(1, 1), 10_000);
        // It says so, but takes what fits its own frames.
        sim.target_config(0).max_sectors = 20;
        sim.on_wire(move |way, frame| {
            if way == Way::ToInitiator && info(frame).header.command == 1 {
                frame[28] = max;
            }
            Fate::Pass
        });
        let lun = sim.up(at(1, 1));
        assert_eq!(sim.init.lun(lun).unwrap().sectors_per_frame, expected);
        for op in [Op::Write, Op::Read] {
            let user = sim.submit(lun, op, 11, 100).unwrap();
            assert_eq!(sim.wait(user), Ok(()));
        }
        sim.finish();
    }
}

/// The target takes smaller frames from now on, while much is in flight.
fn shrinks_in_use(to: u8, doubled: bool) {
    let (mut sim, lun) = Sim::one(
        Config {
            slots: 512,
            ..config()
        },
        9000,
        100_000,
    );
    // Later broadcasts would tell as well.
    sim.run(5 * SEC);
    for i in 0..20 {
        let op = if i % 2 == 0 { Op::Read } else { Op::Write };
        sim.submit(lun, op, i * 200 + 3, 100).unwrap();
    }
    sim.run(200 * US);
    if doubled {
        sim.on_wire(|way, _| {
            if way == Way::ToInitiator {
                Fate::Twice(0)
            } else {
                Fate::Pass
            }
        });
    }
    sim.target_config(0).max_sectors = to;
    sim.finish();
    for (user, result) in &sim.results {
        assert_eq!(*result, Ok(()), "I/O {user}");
    }
    let info = sim.init.lun(lun).unwrap();
    assert_eq!(info.sectors_per_frame, u32::from(to));
    assert!(info.stats.resplits > 0);
    assert!(sim.has_event(&Event::Limits { lun }));
    for i in 0..20 {
        for lba in i * 200 + 3..i * 200 + 103 {
            let sector = sim.disk(0).sector(lba);
            sim.model.check(lun, lba, &sector);
        }
    }
}

#[test]
fn hazard_16_max_sectors_shrinks_in_use() {
    for to in [1, 2, 3, 8, 12] {
        shrinks_in_use(to, false);
    }
}

/// A doubled answer to a command that was split again belongs to no later part of it.
#[test]
fn hazard_16_max_sectors_shrinks_in_use_and_answers_come_twice() {
    for to in [1, 2, 3, 8, 12] {
        shrinks_in_use(to, true);
    }
}

#[test]
fn hazard_16_a_smaller_limit_in_a_config_answer_is_obeyed() {
    let (mut sim, lun) = Sim::one(config(), 9000, 10_000);
    sim.target_config(0).max_sectors = 2;
    sim.init.rescan();
    sim.run_until(SEC, |sim| sim.has_event(&Event::Limits { lun }));
    let user = sim.read(lun, 0, 100);
    assert_eq!(sim.wait(user), Ok(()));
    assert_eq!(sim.init.lun(lun).unwrap().stats.resplits, 0);
    sim.finish();
}

#[test]
fn hazard_16_error_2_on_one_sector_fails() {
    let (mut sim, lun) = Sim::one(config(), 1500, 10_000);
    sim.on_wire(|way, frame| {
        if way == Way::ToInitiator && info(frame).header.command == 0 {
            make_error(frame, 2);
        }
        Fate::Pass
    });
    let user = sim.read(lun, 0, 64);
    sim.run_until(100 * MS, |sim| sim.is_done(user));
    assert!(matches!(sim.results[&user], Err(IoError::Aoe(_))));
    sim.no_faults();
    sim.finish();
}

#[test]
fn hazard_18_a_second_disk_with_the_same_address_is_refused() {
    let mut sim = Sim::new(config());
    sim.add_target(at(1, 1), 1_000);
    sim.add_target(at(1, 1), 2_000);
    let lun = sim.up(at(1, 1));
    sim.run(100 * MS);
    let used = sim.init.lun(lun).unwrap();
    let other = if used.mac == host_mac(0) { 1 } else { 0 };
    assert_eq!(used.stranger, Some(host_mac(other)));
    let duplicate = Event::Duplicate {
        lun,
        mac: host_mac(other),
    };
    assert_eq!(sim.events.iter().filter(|e| **e == duplicate).count(), 1);
    for i in 0..20 {
        let user = sim.write(lun, i * 10, 10);
        assert_eq!(sim.wait(user), Ok(()));
    }
    assert!(sim.disk(other).written.is_empty());
    // Rediscovery says it to no end, but once to the users.
    sim.init.rescan();
    sim.run(SEC);
    assert_eq!(sim.events.iter().filter(|e| **e == duplicate).count(), 1);
    assert_eq!(sim.init.luns().count(), 1);
    sim.finish();
}

#[test]
fn hazard_19_an_announcement_with_version_0_is_heard() {
    for version in [0, 1] {
        let mut sim = Sim::new(config());
        sim.run(10 * SEC);
        sim.add_target(at(5, 5), 1_000);
        let frame = config_frame(Mac::BROADCAST, host_mac(0), at(5, 5), version, 0);
        sim.inject(&frame);
        let start = sim.now;
        sim.up(at(5, 5));
        assert!(sim.now - start < SEC);
        assert_eq!(sim.init.counters().announcements, 1);
        sim.finish();
    }
}

#[test]
fn hazard_19_a_configured_lun_is_heard_without_discovery() {
    let mut sim = Sim::new(Config {
        discover: false,
        probe_interval_ns: 20 * SEC,
        ..config()
    });
    let lun = sim.init.add_lun(at(5, 5)).unwrap();
    sim.run(10 * SEC);
    sim.add_target(at(5, 5), 1_000);
    sim.add_target(at(6, 6), 1_000);
    for (host, addr) in [(0, at(5, 5)), (1, at(6, 6))] {
        sim.inject(&config_frame(Mac::BROADCAST, host_mac(host), addr, 0, 0));
    }
    sim.run(SEC);
    assert_eq!(sim.init.lun(lun).unwrap().state, LunState::Up);
    assert_eq!(sim.init.luns().count(), 1, "nobody asked for e6.6");
}

/// The capacity that the LUN has when it is back after a loss.
fn back_with(sectors: u64, changed: bool) {
    let config = Config {
        loss_timeout_ns: SEC,
        ..config()
    };
    let (mut sim, lun) = Sim::one(config, 1500, 1_000);
    sim.hosts[0].alive = false;
    let user = sim.read(lun, 900, 100);
    assert_eq!(sim.wait(user), Err(IoError::LunLost));
    sim.events.clear();
    sim.disk(0).sectors = sectors;
    sim.hosts[0].alive = true;
    sim.up(at(1, 1));
    assert!(
        sim.has_event(&Event::Up { lun, changed }),
        "{:?}",
        sim.events
    );
    let last = sim.read(lun, sectors - 1, 1);
    assert_eq!(sim.wait(last), Ok(()));
    let past = sim.submit(lun, Op::Read, sectors, 1);
    assert_eq!(
        past,
        Err(SubmitError::OutOfRange {
            lba: sectors,
            sectors: 1,
            capacity: sectors
        })
    );
    sim.finish();
}

#[test]
fn hazard_21_the_capacity_changes_across_a_loss() {
    back_with(500, true);
    back_with(5_000, true);
    back_with(1_000, false);
}

/// Hazard 21 without a loss: the target was restarted with another disk, and announced itself.
#[test]
fn hazard_21_users_are_told_of_a_new_capacity_without_a_loss() {
    let (mut sim, lun) = Sim::one(config(), 1500, 1_000);
    sim.disk(0).sectors = 5_000;
    sim.inject(&config_frame(Mac::BROADCAST, host_mac(0), at(1, 1), 0, 0));
    sim.run(2 * SEC);
    assert!(
        sim.has_event(&Event::Up { lun, changed: true }),
        "{:?}",
        sim.events
    );
    assert_eq!(sim.init.lun(lun).unwrap().sectors, 5_000);
}

#[test]
fn hazard_21_io_past_a_new_end_fails_cleanly() {
    let (mut sim, lun) = Sim::one(config(), 1500, 1_000);
    sim.disk(0).sectors = 500;
    for op in [Op::Read, Op::Write] {
        let user = sim.submit(lun, op, 600, 8).unwrap();
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
    }
    sim.finish();
}

/// No tag is on the wire twice within a frame lifetime, though the tags would run out.
fn tags_rest(loss_percent: u64) -> Sim {
    // All 24 bits that cores and slots may take: 8 bits of generation.
    let (cores, slots) = (1 << 16, 256);
    assert_eq!(TagLayout::new(0, cores, slots).unwrap().gen_mask(), 0xff);
    let lifetime = 300 * MS;
    let mut sim = Sim::new(Config {
        cores,
        slots,
        frame_lifetime_ns: lifetime,
        ..config()
    });
    // So many cores share a buffer count that each may send one command to each LUN.
    for slot in 0..60 {
        sim.add_target(at(1, slot), 1_000);
    }
    let luns: Vec<_> = (0..60).map(|slot| sim.up(at(1, slot))).collect();
    let mut random = Random(9);
    sim.on_wire(move |_, _| {
        if random.chance(loss_percent) {
            Fate::Drop
        } else {
            Fate::Pass
        }
    });
    let from = sim.now;
    while sim.now < from + SEC {
        for &lun in &luns {
            if sim.init.lun(lun).unwrap().inflight == 0 && !sim.init.is_full() {
                sim.read(lun, 0, 1);
            }
        }
        sim.turn();
    }
    sim.finish();
    let mut last: HashMap<u32, u64> = HashMap::new();
    for sent in &sim.sent {
        if let Some(before) = last.insert(sent.info.header.tag.0, sent.at) {
            assert!(
                sent.at - before >= lifetime,
                "{:?} {} ns later",
                sent,
                sent.at - before
            );
        }
    }
    sim
}

#[test]
fn hazard_36_tags_rest_for_a_frame_lifetime() {
    let sim = tags_rest(0);
    assert!(
        sim.init.counters().tag_rests > 0,
        "the test is fast enough to exhaust the tags"
    );
    assert!(sim.results.values().all(Result::is_ok));
}

#[test]
fn hazard_36_tags_of_resends_rest_as_well() {
    let sim = tags_rest(20);
    assert!(sim.init.counters().resends > 100);
    assert!(sim.results.values().all(Result::is_ok));
}

#[test]
fn hazard_36_tags_start_unpredictably() {
    let first = |seed| {
        let (sim, _) = Sim::one(Config { seed, ..config() }, 1500, 1_000);
        sim.sent_ata(ata_cmd::IDENTIFY)[0].info.header.tag
    };
    assert_ne!(first(1), first(2));
    assert_eq!(first(1), first(1));
}
