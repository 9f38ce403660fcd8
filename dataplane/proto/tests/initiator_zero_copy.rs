//! Writes that are sent from the caller's buffer: when it comes back.
//!
//! The harness reads such a payload when its frame leaves the ring, and fails if the buffer was
//! given back before.

mod harness;

use aoe_proto::initiator::{Config, IoError, LunId, LunState, Op};
use harness::*;

/// A LUN that is up, whose ring is stuck from now on, and whose driver never says what has left.
fn stuck(config: Config) -> (Sim, LunId) {
    let (mut sim, lun) = Sim::one(
        Config {
            loss_timeout_ns: SEC,
            ..config
        },
        1500,
        10_000,
    );
    sim.zero_copy = true;
    sim.reports_released = false;
    sim.run(5 * SEC);
    sim.stuck[0] = true;
    (sim, lun)
}

#[test]
fn writes_from_the_callers_buffer_arrive() {
    let (mut sim, lun) = Sim::one(config(), 9000, 100_000);
    sim.zero_copy = true;
    let mut random = Random(8);
    sim.on_wire(move |_, _| {
        if random.chance(10) {
            Fate::Drop
        } else {
            Fate::Pass
        }
    });
    for i in 0..50 {
        sim.write(lun, i * 100, 60);
    }
    sim.finish();
    assert!(sim.results.values().all(Result::is_ok));
    for (lun, lba) in sim.model.written().collect::<Vec<_>>() {
        let sector = sim.disk(0).sector(lba);
        sim.model.check(lun, lba, &sector);
    }
}

/// An answer proves that all frames before its own have left the ring.
#[test]
fn hazard_01_an_answer_gives_earlier_buffers_of_its_ring_back() {
    let (mut sim, lun) = Sim::one(config(), 1500, 10_000);
    sim.zero_copy = true;
    sim.reports_released = false;
    // Two writes; the first one's answer is lost, the second one's is not.
    let mut n = 0;
    sim.on_wire(move |way, _| {
        n += usize::from(way == Way::ToInitiator);
        if way == Way::ToInitiator && n == 1 {
            Fate::Drop
        } else {
            Fate::Pass
        }
    });
    let first = sim.write(lun, 0, 2);
    sim.turn_at_once();
    let second = sim.write(lun, 8, 2);
    sim.turn_at_once();
    sim.run(300 * US);
    assert!(!sim.is_done(first));
    assert_eq!(sim.results.get(&second), Some(&Ok(())));
    // Given up now: its only copy was before the second one's on the ring, so it has left.
    sim.init.fail_all(lun, IoError::Aborted);
    sim.turn_at_once();
    assert_eq!(sim.results.get(&first), Some(&Err(IoError::Aborted)));
    sim.finish();
}

/// The first copy of a write is answered while its resend, and another write before that, are
/// still on the ring.
#[test]
fn hazard_01_an_answer_to_an_old_copy_says_nothing_of_later_frames() {
    let (mut sim, lun) = Sim::one(config(), 1500, 10_000);
    sim.run(5 * SEC);
    sim.zero_copy = true;
    sim.reports_released = false;
    sim.on_wire(|way, _| {
        if way == Way::ToInitiator {
            Fate::Delay(150 * MS)
        } else {
            Fate::Pass
        }
    });
    let answered = sim.write(lun, 0, 2);
    sim.turn_at_once();
    sim.stuck[0] = true;
    let waiting = sim.write(lun, 10, 2);
    sim.run(140 * MS);
    assert!(sim.init.counters().resends > 0);
    sim.run(100 * MS);
    assert_eq!(sim.results.get(&answered), Some(&Ok(())));
    sim.init.fail_all(lun, IoError::Aborted);
    sim.run(100 * MS);
    assert!(!sim.is_done(waiting));
    sim.stuck[0] = false;
    assert_eq!(sim.wait(waiting), Err(IoError::Aborted));
    sim.no_faults();
    sim.finish();
}

#[test]
fn hazard_31_a_lost_luns_buffers_stay_while_the_ring_may_send_them() {
    let (mut sim, lun) = stuck(config());
    let users: Vec<u64> = (0..5).map(|i| sim.write(lun, i * 10, 4)).collect();
    sim.run(20 * SEC);
    assert_eq!(sim.init.lun(lun).unwrap().state, LunState::Lost);
    assert!(
        sim.results.is_empty(),
        "buffers came back while the ring was stuck"
    );
    assert_eq!(sim.init.draining().len(), 10);
    assert_eq!(sim.init.counters().drained, 10);
    // The ring moves; nobody reports it, but probes are answered behind it.
    sim.stuck[0] = false;
    let start = sim.now;
    sim.run_until(5 * SEC, |sim| sim.pending.is_empty());
    assert!(sim.now - start < 2 * SEC);
    for user in users {
        assert_eq!(sim.results[&user], Err(IoError::LunLost));
    }
    sim.up(at(1, 1));
    sim.finish();
}

#[test]
fn hazard_31_released_is_enough() {
    let (mut sim, lun) = stuck(config());
    sim.hosts[0].alive = false;
    let user = sim.write(lun, 0, 4);
    sim.run(20 * SEC);
    assert!(!sim.is_done(user));
    // The frames leave the ring into nowhere: only the driver can tell.
    sim.stuck[0] = false;
    sim.run(5 * SEC);
    assert!(!sim.is_done(user));
    sim.reports_released = true;
    sim.turn();
    assert_eq!(sim.results.get(&user), Some(&Err(IoError::LunLost)));
    sim.hosts[0].alive = true;
    sim.up(at(1, 1));
    sim.finish();
}

#[test]
fn hazard_31_an_aborted_write_is_flushed_out_by_a_probe() {
    let (mut sim, lun) = Sim::one(config(), 1500, 10_000);
    sim.run(5 * SEC);
    sim.zero_copy = true;
    sim.reports_released = false;
    sim.stuck[0] = true;
    let user = sim.write(lun, 0, 4);
    sim.turn();
    let queries = |sim: &Sim| {
        sim.sent
            .iter()
            .filter(|s| s.info.header.command == 1)
            .count()
    };
    let before = queries(&sim);
    sim.init.abort_all();
    sim.run(50 * MS);
    assert!(!sim.is_done(user));
    // The write's own answers are lost.
    sim.on_wire(|way, frame| {
        let is_ata = info(frame).header.command == 0;
        if way == Way::ToInitiator && is_ata {
            Fate::Drop
        } else {
            Fate::Pass
        }
    });
    sim.stuck[0] = false;
    sim.run_until(SEC, |sim| sim.is_done(user));
    assert!(queries(&sim) > before, "a probe was sent");
    assert_eq!(sim.results[&user], Err(IoError::Aborted));
    assert_eq!(sim.init.lun(lun).unwrap().state, LunState::Up);
    sim.no_faults();
    sim.finish();
}

/// Another LUN's write is answered behind it on the same ring.
#[test]
fn hazard_31_any_later_answer_on_the_port_gives_the_buffer_back() {
    let (mut sim, dead) = Sim::one(
        Config {
            loss_timeout_ns: SEC,
            ..config()
        },
        1500,
        10_000,
    );
    sim.add_target(at(1, 2), 10_000);
    let other = sim.up(at(1, 2));
    // Broadcasts, which the other LUN would answer, have become rare.
    sim.run(10 * SEC);
    sim.zero_copy = true;
    sim.reports_released = false;
    sim.hosts[0].alive = false;
    let user = sim.write(dead, 0, 2);
    sim.run_until(10 * SEC, |sim| !sim.init.draining().is_empty());
    assert!(!sim.is_done(user));
    let later = sim.read(other, 0, 1);
    assert_eq!(sim.wait(later), Ok(()));
    sim.turn();
    assert_eq!(sim.results.get(&user), Some(&Err(IoError::LunLost)));
}

/// As above, but the other LUN is idle: a probe has to find somebody who answers.
#[test]
fn hazard_31_a_probe_asks_a_lun_that_can_answer() {
    let config = Config {
        loss_timeout_ns: SEC,
        discover: false,
        ..config()
    };
    let mut sim = Sim::new(config);
    for slot in [1, 2] {
        sim.add_target(at(1, slot), 10_000);
        sim.init.add_lun(at(1, slot)).unwrap();
    }
    let (dead, _) = (sim.up(at(1, 1)), sim.up(at(1, 2)));
    sim.zero_copy = true;
    sim.reports_released = false;
    sim.hosts[0].alive = false;
    let user = sim.write(dead, 0, 2);
    sim.run(20 * SEC);
    assert_eq!(sim.results.get(&user), Some(&Err(IoError::LunLost)));
}

/// As above, but the LUN has come back on another port meanwhile: the old ring has to be asked.
#[test]
fn hazard_31_a_probe_goes_to_the_ring_that_holds_the_buffer() {
    let config = Config {
        loss_timeout_ns: SEC,
        discover: false,
        ..config()
    };
    let mut sim = Sim::with_ports(config, &[1500, 1500]);
    sim.add_target(at(1, 1), 10_000);
    sim.init.add_lun(at(1, 1)).unwrap();
    let lun = sim.up(at(1, 1));
    sim.run(5 * SEC);
    sim.zero_copy = true;
    sim.reports_released = false;
    sim.stuck[0] = true;
    sim.hosts[0].ports = vec![1];
    let user = sim.write(lun, 0, 2);
    sim.run(10 * SEC);
    assert_eq!(sim.init.lun(lun).unwrap().port, 1);
    let again = sim.write(lun, 100, 2);
    assert_eq!(sim.wait(again), Ok(()));
    assert!(
        !sim.is_done(user),
        "another port's answer says nothing about this ring"
    );
    // What was on that ring goes nowhere; what is put there from now on is answered.
    sim.stuck[0] = false;
    sim.run(10 * MS);
    sim.hosts[0].ports = vec![0, 1];
    sim.run(5 * SEC);
    assert_eq!(sim.results.get(&user), Some(&Err(IoError::LunLost)));
}

#[test]
fn hazard_02_resends_wait_in_order_behind_a_stuck_first_copy() {
    let (mut sim, lun) = stuck(config());
    let user = sim.write(lun, 0, 2);
    sim.turn();
    let copies = sim.ring_len(0);
    assert_eq!(copies, 1);
    sim.run(100 * MS);
    assert!(sim.ring_len(0) > copies, "resends wait behind it");
    sim.stuck[0] = false;
    assert_eq!(sim.wait(user), Ok(()));
    let sector = sim.disk(0).sector(1);
    sim.model.check(lun, 1, &sector);
    sim.finish();
    assert!(sim.submit(lun, Op::Read, 0, 2).is_ok());
    sim.finish();
}
