//! Frames that do not come back: the overflow, back-pressure, recovery, and rings that move only
//! when something is sent.

mod nic;

use aoe_engine::Port;
use aoe_proto::initiator::{Op, SubmitError};
use nic::bench::Memory;
use nic::ring::Link;
use nic::{Bench, Fate, MS, Policy, SEC, Shape, Way};

/// Few frames; a driver that never lets go.
fn starved(zero_copy: bool) -> Bench {
    let shape = Shape {
        header: (24, 5),
        full: if zero_copy { (160, 16) } else { (24, 5) },
        policy: Policy::Never,
        zero_copy,
        ring: 1000,
        ..Shape::default()
    };
    let mut b = Bench::new(&shape);
    // The first rounds of discovery pass.
    b.run(2 * SEC);
    b.nic(0).release_sent();
    b.run(3 * MS);
    assert!(
        b.cores[0].is_whole(),
        "all are back before the test begins: {}",
        b.summary()
    );
    b
}

/// Hazard 6: a driver that never cleans its ring gets what there is, and no more; then the engine
/// says so, and it goes on when the ring moves.
#[test]
fn hazard_06_base_and_overflow_go_out_then_busy_then_recovery() {
    for (zero_copy, op) in [(true, Op::Write), (true, Op::Read), (false, Op::Write)] {
        let mut b = starved(zero_copy);
        let before = b.nic(0).taken;
        let mut accepted = 0_u64;
        let refused = loop {
            match b.submit(0, 0, op, accepted * 16, 16, Memory::One) {
                Ok(_) => accepted += 1,
                Err(e) => break e,
            }
            assert!(accepted < 60, "the engine never says no");
            b.turn();
        };
        assert_eq!(refused, SubmitError::Busy);
        b.run(5 * MS);
        let sent = b.nic(0).taken - before;
        assert_eq!(sent, 29, "base and overflow, and not one more");
        let stats = b.stats(0);
        let pool = if zero_copy { stats.header } else { stats.full };
        assert_eq!((pool.held, pool.held_max), (29, 29), "{stats:?}");
        assert_eq!(
            (pool.overflow, pool.overflow_max, pool.overflow_taken),
            (5, 5, 5)
        );
        assert!(stats.blocked_turns > 0 && pool.nudges > 0);
        assert!(!b.pending.is_empty(), "one I/O waits for a frame");
        b.nic(0).release_sent();
        b.run(5 * MS);
        let user = b
            .submit(0, 0, op, 5000, 16, Memory::One)
            .expect("it goes on");
        assert_eq!(b.wait(user), Ok(()));
        b.finish();
        assert!(b.done.values().all(Result::is_ok));
    }
}

/// Hazard 6: the pool runs dry in the middle of a turn.
#[test]
fn hazard_06_one_turn_wants_more_frames_than_there_are() {
    for op in [Op::Read, Op::Write] {
        let mut shape = Shape {
            header: (40, 5),
            policy: Policy::Never,
            ..Shape::default()
        };
        (shape.config.slots, shape.ring) = (256, 1000);
        let mut b = Bench::without_luns(&shape);
        b.net.borrow_mut().hosts[0].target.config_mut().buffer_count = 200;
        b.wait_up();
        b.run(2 * SEC);
        b.nic(0).release_sent();
        b.run_until(SEC, |b| b.cores[0].is_whole());
        let before = b.nic(0).taken;
        for i in 0..60 {
            b.submit(0, 0, op, i * 32, 32, Memory::One).unwrap();
        }
        b.turn();
        assert_eq!((b.nic(0).taken - before, b.stats(0).unsendable), (45, 0));
        b.nic(0).ring.policy = Policy::NextBurst;
        b.nic(0).release_sent();
        b.finish();
        assert!(b.done.values().all(Result::is_ok));
        assert_eq!(b.cores[0].counters().resends, 0);
    }
}

/// Every step has a counter, this one too.
#[test]
fn hazard_06_being_without_any_frame_is_counted() {
    let mut b = starved(true);
    for i in 0..40 {
        let _busy = b.submit(0, 0, Op::Write, i * 16, 16, Memory::One);
        b.turn();
    }
    assert!(b.stats(0).blocked_turns > 0);
    assert!(b.stats(0).header.starved > 0, "{:?}", b.stats(0).header);
}

/// Hazard 6: over and over, with the overflow in use.
#[test]
fn hazard_06_overflow_is_given_back() {
    let mut b = starved(true);
    for round in 0..30 {
        for i in 0..40 {
            let _busy = b.submit(0, 0, Op::Write, (round * 40 + i) * 16, 16, Memory::One);
            b.turn();
        }
        assert!(b.nic(0).held() > 24);
        for _ in 0..2 {
            b.nic(0).release_sent();
            b.run(2 * MS);
        }
        assert_eq!((b.stats(0).header.held, b.stats(0).header.overflow), (0, 0));
    }
    b.finish();
}

/// Hazard 7: the oldest frame is stuck for ever; the others go round.
#[test]
fn hazard_07_a_stuck_first_frame_stops_nobody() {
    for stuck in [1, 3, 20] {
        let shape = Shape {
            header: (24, 5),
            ring: 1000,
            policy: Policy::Stuck(0),
            ..Shape::default()
        };
        let mut b = Bench::new(&shape);
        b.nic(0).ring.policy = Policy::Stuck(stuck);
        for i in 0..400 {
            let op = if i % 2 == 0 { Op::Write } else { Op::Read };
            let lba = i / 2 * 16;
            while b.submit(0, 0, op, lba, 16, Memory::One).is_err() {
                b.turn();
            }
            let user = *b.pending.keys().max().unwrap();
            assert_eq!(b.wait(user), Ok(()), "{stuck} stuck");
        }
        let stats = b.stats(0).header;
        assert!(stats.looked_past > 0, "{stats:?}");
        assert!(b.nic(0).held() >= stuck);
        b.finish();
    }
}

/// The ring takes a part of each burst: what it did not take goes first, in order, once.
#[test]
fn partial_bursts_lose_nothing_and_double_nothing() {
    for policy in [
        Policy::NextBurst,
        Policy::Reuse,
        Policy::NearlyFull(2),
        Policy::AtOnce,
    ] {
        let mut b = Bench::new(&Shape {
            policy,
            ring: 10,
            ..Shape::default()
        });
        b.nic(0).ring.partial = true;
        b.nic(0).ring.rate = 3;
        b.net.borrow_mut().record = true;
        let before = b.nic(0).taken;
        for i in 0..40 {
            while b.submit(0, 0, Op::Write, i * 60, 60, Memory::One).is_err() {
                b.turn();
            }
        }
        b.finish();
        assert!(b.stats(0).ring_full > 0, "{policy:?}");
        assert_eq!(b.cores[0].counters().resends, 0, "{policy:?}");
        let seen = b.net.borrow().seen.len() as u64;
        assert_eq!(seen, b.nic(0).taken - before, "each frame once");
    }
}

/// An idle engine needs no release: whatever the driver keeps, the next I/O goes out.
#[test]
fn an_idle_ring_that_keeps_its_frames_stops_nothing() {
    for (policy, ring) in [(Policy::NearlyFull(4), 64), (Policy::Reuse, 64)] {
        let shape = Shape {
            policy,
            ring,
            header: (64 + 64 + 32, 16),
            ..Shape::default()
        };
        let mut b = Bench::new(&shape);
        for i in 0..200 {
            let user = b.write(i * 16, 16);
            assert_eq!(b.wait(user), Ok(()), "{policy:?}");
            b.run(30 * MS);
        }
        assert_eq!(b.stats(0).blocked_turns, 0);
        b.finish();
    }
}

/// A port in the proportions of `Device::open`: full frames for slots, descriptors, a burst. Writes
/// have to be copied, since their memory is not registered. e1000 and virtio let go of a frame only
/// when about a ring of others has followed, so fewer frames than descriptors would be the end.
fn bounced_writes(policy: Policy) {
    let shape = Shape {
        policy,
        ring: 64,
        header: (64 + 64 + 2, 16),
        full: (64 + 64 + 2, 4),
        ..Shape::default()
    };
    let mut b = Bench::new(&shape);
    b.nic(0).refuse_attach = true;
    for i in 0..200 {
        b.run_until(5 * SEC, |b| b.pending.len() < 8);
        while b.submit(0, 0, Op::Write, i * 16, 16, Memory::One).is_err() {
            b.run(MS);
            assert!(b.now < 1_100 * SEC, "blocked for good: {}", b.summary());
        }
    }
    b.finish();
}

#[test]
fn bounced_writes_on_a_ring_that_lets_go_when_descriptors_are_reused() {
    bounced_writes(Policy::Reuse);
}

#[test]
fn bounced_writes_on_a_ring_that_lets_go_when_nearly_full() {
    bounced_writes(Policy::NearlyFull(4));
}

#[test]
fn bounced_writes_on_a_ring_that_lets_go_at_the_next_burst() {
    bounced_writes(Policy::NextBurst);
}

/// Reads and probes need no full frame: a resend storm that took them all must not stop those.
#[test]
fn reads_go_on_while_all_full_frames_are_held() {
    let shape = Shape {
        policy: Policy::Never,
        ring: 1000,
        full: (4, 2),
        ..Shape::default()
    };
    let mut b = Bench::new(&shape);
    b.nic(0).refuse_attach = true;
    for i in 0..6 {
        let user = b.write(i * 16, 16);
        assert_eq!(b.wait(user), Ok(()));
    }
    let user = b.read(0, 16);
    b.run(SEC);
    assert!(b.is_done(user), "{}", b.summary());
    b.finish();
}

/// Two ports, one of them blocked: the LUNs on the other go on.
#[test]
fn a_blocked_port_blocks_only_its_own_luns() {
    for gone in [true, false] {
        let shape = Shape {
            ports: 2,
            header: (24, 5),
            ..Shape::default()
        };
        let mut b = Bench::new(&shape);
        b.nic(0).ring.link = if gone { Link::Gone } else { Link::Down };
        let mut first = 0;
        while b
            .submit(0, 0, Op::Write, first * 16, 16, Memory::One)
            .is_ok()
        {
            b.turn();
            first += 1;
            assert!(first < 64);
        }
        assert!(b.stats(0).blocked_turns > 0);
        let refused = b.submit(0, 0, Op::Read, 0, 8, Memory::One);
        assert_eq!(refused, Err(SubmitError::Busy));
        for i in 0..50 {
            let op = if i % 2 == 0 { Op::Write } else { Op::Read };
            let user = b
                .submit(0, 1, op, i / 2 * 16, 16, Memory::One)
                .expect("port 1 works");
            b.run_until(20 * MS, |b| b.is_done(user));
            assert_eq!(b.done[&user], Ok(()));
        }
        assert!(b.pending.len() as u64 >= first - 1);
        b.nic(0).ring.link = Link::Up;
        b.finish();
        assert!(b.done.values().all(Result::is_ok));
    }
}

/// The ring is full when a frame cannot be made: the sequence numbers of those before it stay true.
#[test]
fn an_unsendable_frame_does_not_count_as_one_that_waits() {
    // Full frames too small for a write, which the device cannot read in place either.
    let shape = Shape {
        full_room: 1000,
        drain_ns: 200 * MS,
        ..Shape::default()
    };
    let mut b = Bench::new(&shape);
    b.nic(0).ring.link = Link::Gone;
    let waits = b.submit(0, 0, Op::Write, 0, 16, Memory::One).unwrap();
    b.turn();
    b.nic(0).refuse_attach = true;
    let unsendable = b.submit(0, 0, Op::Write, 100, 16, Memory::One).unwrap();
    b.turn();
    assert_eq!(b.stats(0).unsendable, 1);
    b.cores[0].abort_all();
    b.run(SEC);
    assert!(b.is_done(unsendable));
    // Either the engine has taken the frame out of its batch, or it keeps the buffer.
    let waiting = !b.is_done(waits);
    b.nic(0).ring.link = Link::Up;
    b.run(SEC);
    b.check_disks();
    assert!(waiting || b.net.borrow().hosts[0].target.disk().written.is_empty());
}

/// Answers are dropped: the frames of resends come back, too.
#[test]
fn resends_use_full_frames_and_give_them_back() {
    for policy in [Policy::NextBurst, Policy::Odd, Policy::AtOnce] {
        let mut b = Bench::new(&Shape {
            policy,
            ..Shape::default()
        });
        let mut count = 0;
        b.net.borrow_mut().fault = Box::new(move |way, _| {
            count += 1;
            if way == Way::ToInitiator && count % 3 == 0 {
                Fate::Drop
            } else {
                Fate::Pass
            }
        });
        for i in 0..60 {
            let user = b.write(i * 16, 16);
            assert_eq!(b.wait(user), Ok(()));
        }
        assert!(b.stats(0).bounced > 5);
        b.finish();
        let sizes = b.nic(0).frames();
        assert!(b.stats(0).full.held_max < sizes.full.base);
    }
}
