//! Ports whose link goes down, whose peer goes away, and which are flushed at last.

mod nic;

use aoe_proto::initiator::{Event, IoError, Op};
use nic::bench::Memory;
use nic::ring::Link;
use nic::{Bench, Fate, MS, Policy, SEC, Shape, Way};

/// Hazard 24: the buffers of an aborted write come back when the ring has let go, not before.
#[test]
fn hazard_24_abort_waits_for_the_ring() {
    for policy in [Policy::NextBurst, Policy::Reuse, Policy::Odd] {
        let mut b = Bench::new(&Shape {
            policy,
            drain_ns: 30 * SEC,
            ..Shape::default()
        });
        b.nic(0).ring.link = Link::Down;
        let users: Vec<_> = (0..4).map(|i| b.write(i * 16, 16)).collect();
        b.run(5 * MS);
        let queued = b.submit(0, 0, Op::Read, 0, 8, Memory::One).unwrap();
        b.cores[0].abort_all();
        b.run(500 * MS);
        assert!(users.iter().all(|&u| !b.is_done(u)), "still in the ring");
        assert_eq!(b.done[&queued], Err(IoError::Aborted));
        b.nic(0).ring.link = Link::Up;
        for user in users {
            assert_eq!(b.wait(user), Err(IoError::Aborted));
        }
        b.finish();
    }
}

/// Hazard 27: the link goes away in the middle, and comes back in time or too late.
#[test]
fn hazard_27_link_down_mid_io() {
    for (down_ns, link) in [(SEC, Link::Down), (SEC, Link::Gone), (8 * SEC, Link::Down)] {
        let mut b = Bench::new(&Shape::default());
        let mut users: Vec<_> = (0..8).map(|i| b.write(i * 40, 40)).collect();
        users.extend((0..8).map(|i| b.read(1000 + i * 40, 40)));
        b.turn();
        b.nic(0).ring.link = link;
        b.run(down_ns);
        b.nic(0).ring.link = Link::Up;
        b.run_until(60 * SEC, |b| b.pending.is_empty());
        let lost = users
            .iter()
            .filter(|u| b.done[u] == Err(IoError::LunLost))
            .count();
        let good = users.iter().filter(|u| b.done[u] == Ok(())).count();
        assert_eq!(lost + good, users.len());
        assert_eq!(lost > 0, down_ns > 3 * SEC, "{link:?}");
        b.wait_up();
        let user = b.write(5000, 8);
        assert_eq!(b.wait(user), Ok(()));
        b.finish();
    }
}

/// Hazard 27: a link that flaps.
#[test]
fn hazard_27_flapping_link() {
    let mut b = Bench::new(&Shape::default());
    let mut next = 0;
    for round in 0..200 {
        let links = [Link::Up, Link::Down, Link::Gone];
        b.nic(0).ring.link = links[round % 3];
        while b.pending.len() < 16 {
            if b.submit(0, 0, Op::Write, next * 24, 24, Memory::One)
                .is_err()
            {
                break;
            }
            next += 1;
        }
        b.run(7 * MS);
    }
    b.nic(0).ring.link = Link::Up;
    b.finish();
    assert!(b.done.values().all(Result::is_ok));
    assert!(next > 100);
}

/// Hazard 31: a write whose LUN is lost while it sits in a dead ring keeps the caller's memory.
#[test]
fn hazard_31_a_lost_write_comes_back_when_the_port_was_flushed() {
    let mut b = Bench::new(&Shape {
        drain_ns: 2 * SEC,
        ..Shape::default()
    });
    b.nic(0).ring.link = Link::Down;
    let (write, read) = (b.write(0, 32), b.read(100, 8));
    b.run_until(10 * SEC, |b| b.is_done(read));
    assert_eq!(b.done[&read], Err(IoError::LunLost));
    assert!(b.events.iter().any(|e| matches!(e, Event::Lost { .. })));
    assert!(!b.is_done(write), "its ring may still read it");
    let lost = b.now;
    b.run_until(10 * SEC, |b| b.is_done(write));
    assert!(
        b.now - lost >= 2 * SEC - 10 * MS,
        "not before the drain timeout"
    );
    assert_eq!(
        (b.done[&write], b.stats(0).flushes),
        (Err(IoError::LunLost), 1)
    );
    b.nic(0).ring.link = Link::Up;
    b.wait_up();
    b.finish();
    assert!(
        b.net.borrow().hosts[0].target.disk().written.is_empty(),
        "nothing went out"
    );
}

/// Hazard 31: the link comes back before the flush: the frames go out with the right bytes.
#[test]
fn hazard_31_a_lost_write_comes_back_when_its_frame_has_left() {
    for policy in [
        Policy::NextBurst,
        Policy::Never,
        Policy::NearlyFull(1),
        Policy::Reuse,
    ] {
        let shape = Shape {
            policy,
            drain_ns: 100 * SEC,
            ..Shape::default()
        };
        let mut b = Bench::new(&shape);
        b.nic(0).ring.link = Link::Down;
        let write = b.write(0, 32);
        b.run(6 * SEC);
        assert!(!b.is_done(write));
        b.nic(0).ring.link = Link::Up;
        assert_eq!(b.wait(write), Err(IoError::LunLost), "{policy:?}");
        assert_eq!(b.stats(0).flushes, 0);
        b.wait_up();
        b.finish();
    }
}

/// A port that takes nothing at all (a memif or vhost peer that has gone): the frame is still
/// ours, nobody reads it, and the I/O has to end.
#[test]
fn hazard_27_a_frame_that_the_driver_never_took_does_not_keep_its_io() {
    let mut b = Bench::new(&Shape {
        drain_ns: SEC,
        ..Shape::default()
    });
    b.nic(0).ring.link = Link::Gone;
    let (write, read) = (b.write(0, 16), b.read(100, 8));
    b.run(30 * SEC);
    assert_eq!(b.done.get(&read), Some(&Err(IoError::LunLost)));
    assert_eq!(
        b.done.get(&write),
        Some(&Err(IoError::LunLost)),
        "{}",
        b.summary()
    );
    b.nic(0).ring.link = Link::Up;
    b.wait_up();
    // A command whose answer gets lost is still sent again.
    let mut first = true;
    b.net.borrow_mut().fault = Box::new(move |way, _| {
        let lost = way == Way::ToInitiator && std::mem::take(&mut first);
        if lost { Fate::Drop } else { Fate::Pass }
    });
    let again = b.write(100, 16);
    assert_eq!(b.wait(again), Ok(()));
    b.finish();
}

/// Hazard 31: what never left our hands is not sent long after its I/O has failed.
#[test]
fn hazard_31_a_failed_write_in_the_batch_is_not_sent_at_link_up() {
    let mut b = Bench::new(&Shape {
        zero_copy: false,
        ..Shape::default()
    });
    b.nic(0).ring.link = Link::Gone;
    let write = b.write(0, 16);
    assert_eq!(b.wait(write), Err(IoError::LunLost));
    b.run(100 * SEC);
    b.nic(0).ring.link = Link::Up;
    b.wait_up();
    b.finish();
    assert!(
        b.net.borrow().hosts[0].target.disk().written.is_empty(),
        "100 s after it failed"
    );
}

/// A port that cannot be flushed must not keep the others from it.
#[test]
fn hazard_31_each_port_is_flushed_on_its_own() {
    let mut b = Bench::new(&Shape {
        ports: 2,
        ..Shape::default()
    });
    b.nic(0).flush = nic::Flush::Fails;
    for port in 0..2 {
        b.nic(port).ring.link = Link::Down;
    }
    let stuck = b.submit(0, 0, Op::Write, 0, 16, Memory::One).unwrap();
    let other = b.submit(0, 1, Op::Write, 0, 16, Memory::One).unwrap();
    b.run(20 * SEC);
    assert!(!b.is_done(stuck), "its ring still reads it");
    assert!(b.is_done(other), "port 1 could be flushed: {}", b.summary());
    b.nic(0).ring.link = Link::Up;
    b.nic(1).ring.link = Link::Up;
    b.finish();
}

/// What a flush takes out of the ring is sent again.
#[test]
fn other_io_survives_a_flush() {
    let mut b = Bench::new(&Shape {
        drain_ns: 100 * MS,
        ..Shape::default()
    });
    b.nic(0).ring.link = Link::Down;
    let aborted = b.write(0, 16);
    b.run(5 * MS);
    b.cores[0].abort_all();
    let (write, read) = (b.write(100, 16), b.read(200, 16));
    b.run_until(SEC, |b| b.is_done(aborted));
    assert_eq!(
        (b.done[&aborted], b.stats(0).flushes),
        (Err(IoError::Aborted), 1)
    );
    assert!(!b.is_done(write) && !b.is_done(read));
    b.nic(0).ring.link = Link::Up;
    assert_eq!((b.wait(write), b.wait(read)), (Ok(()), Ok(())));
    b.finish();
}
