//! Two cores that share a port: answers arrive at either queue.

mod nic;

use aoe_proto::initiator::{IoError, Op};
use nic::bench::Memory;
use nic::{Bench, Fate, MS, Policy, SEC, Shape, Way};

fn shape() -> Shape {
    Shape {
        cores: 2,
        ..Shape::default()
    }
}

#[test]
fn answers_that_go_astray_are_handed_over() {
    for astray in [0, 50, 100] {
        for policy in [Policy::NextBurst, Policy::Odd, Policy::AtOnce] {
            let mut b = Bench::without_luns(&Shape { policy, ..shape() });
            b.net.borrow_mut().astray = astray;
            b.wait_up();
            for i in 0..200 {
                let op = if i % 2 == 0 { Op::Write } else { Op::Read };
                let core = i % 4 / 2;
                while b
                    .submit(core, 0, op, i as u64 / 2 * 50, 50, Memory::One)
                    .is_err()
                {
                    b.turn();
                }
                b.turn();
            }
            b.finish();
            assert!(b.done.values().all(Result::is_ok));
            for engine in &b.cores {
                let stats = engine.port_stats().next().unwrap();
                assert_eq!(stats.handed_over > 0, astray > 0);
                assert_eq!((engine.counters().resends, stats.handover_full), (0, 0));
                assert_eq!(engine.drops().total(), 0);
            }
        }
    }
}

/// A core that sleeps: its inbox fills up, what does not fit is counted and sent again.
#[test]
fn a_full_inbox_loses_frames_but_no_io() {
    let mut b = Bench::new(&shape());
    b.net.borrow_mut().astray = 100;
    let user = b.submit(1, 0, Op::Read, 0, 64, Memory::One).unwrap();
    b.turn();
    b.asleep[1] = true;
    b.turn();
    // Many copies of one answer, more than an inbox holds.
    b.run_until(SEC, |b| {
        !b.net.borrow().rx[0][0].is_empty() || b.stats(0).handed_over > 0
    });
    let frame = {
        let net = &mut *b.net.borrow_mut();
        net.fault = Box::new(|_, _| Fate::Pass);
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[0x88, 0xa2]);
        frame[14] = 0x18;
        frame[20] = 0x80;
        frame
    };
    for _ in 0..1500 {
        b.net.borrow_mut().rx[0][0].push_back(frame.clone());
    }
    b.run(20 * MS);
    let stats = b.stats(0);
    assert!(stats.handover_full > 400, "{stats:?}");
    assert_eq!(
        stats.handed_over + stats.handover_full,
        stats.received - own(&b)
    );
    b.asleep[1] = false;
    assert_eq!(b.wait(user), Ok(()));
    b.finish();
}

/// Frames that core 0 received for itself.
fn own(b: &Bench) -> u64 {
    b.cores[0].counters().matched + b.cores[0].drops().total()
}

/// Hazards 11 and 28: answers that wait in the inbox are seen before timers run, however many.
#[test]
fn hazard_11_a_full_inbox_is_no_reason_to_send_again() {
    let mut shape = shape();
    shape.config.slots = 256;
    shape.config.ios = 256;
    shape.header = (600, 16);
    shape.ring = 512;
    let mut b = Bench::without_luns(&shape);
    // Each core gets its share of the buffer count: 128.
    for host in &mut b.net.borrow_mut().hosts {
        host.target.config_mut().buffer_count = 256;
    }
    b.wait_up();
    b.run(2 * SEC);
    // A warm-up, so that the timeout is at its least.
    for i in 0..30 {
        let user = b.submit(1, 0, Op::Read, i * 16, 16, Memory::One).unwrap();
        assert_eq!(b.wait(user), Ok(()));
    }
    b.net.borrow_mut().astray = 100;
    for i in 0..100 {
        b.submit(1, 0, Op::Read, i * 16, 16, Memory::One).unwrap();
    }
    b.turn();
    b.asleep[1] = true;
    // Less than a pause, more than a timeout.
    b.run(45 * MS);
    assert_eq!(b.stats(0).handed_over, 100);
    b.asleep[1] = false;
    b.turn_at_once();
    b.finish();
    assert_eq!(b.cores[1].counters().resends, 0, "all answers were there");
}

/// Both cores lose their LUN, and find it again.
#[test]
fn lost_luns_on_both_cores_complete_once() {
    let mut b = Bench::new(&shape());
    b.net.borrow_mut().astray = 50;
    for core in 0..2 {
        for i in 0..10 {
            let lba = (core as u64 * 10 + i) * 40;
            b.submit(core, 0, Op::Write, lba, 40, Memory::One).unwrap();
        }
    }
    b.net.borrow_mut().fault = Box::new(|way, _| {
        if way == Way::ToInitiator {
            Fate::Drop
        } else {
            Fate::Pass
        }
    });
    b.run(2 * SEC);
    b.run_until(10 * SEC, |b| b.pending.is_empty());
    assert!(b.done.values().any(|r| *r == Err(IoError::LunLost)));
    b.net.borrow_mut().fault = Box::new(|_, _| Fate::Pass);
    b.wait_up();
    b.finish();
}
