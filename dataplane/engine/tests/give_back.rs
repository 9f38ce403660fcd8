//! When frames and callers' buffers come back: the engine on simulated NICs. See [`nic`].

mod nic;

use aoe_proto::initiator::{Event, IoError, Op};
use aoe_proto::wire::{Header, ata_cmd};
use nic::bench::Memory;
use nic::net::{ata, content};
use nic::ring::Link;
use nic::{Bench, Fate, MS, Policy, SEC, Shape, Way, is_ata};

/// Frames on the wire that carry a write: their tags and payloads.
fn writes_seen(bench: &Bench) -> Vec<(u32, Vec<u8>)> {
    let net = bench.net.borrow();
    let writes = net.seen.iter().filter(|f| is_ata(f, ata_cmd::WRITE_EXT));
    writes
        .map(|f| (Header::parse(f).unwrap().0.tag.0, f[36..].to_vec()))
        .collect()
}

#[test]
fn reads_and_writes_come_through_whole() {
    for policy in [
        Policy::AtOnce,
        Policy::NextBurst,
        Policy::NearlyFull(4),
        Policy::Reuse,
        Policy::Odd,
        Policy::Stuck(1),
    ] {
        for zero_copy in [true, false] {
            let mut b = Bench::new(&Shape {
                policy,
                zero_copy,
                ..Shape::default()
            });
            for i in 0..20 {
                let user = b.write(i * 50, 50);
                assert_eq!(b.wait(user), Ok(()));
                let user = b.read(i * 50, 50);
                assert_eq!(b.wait(user), Ok(()));
            }
            b.finish();
            let copied = b.stats(0);
            assert_eq!(copied.zero_copy > 0, zero_copy, "{policy:?}");
        }
    }
}

/// Hazard 1: copy 2 sits in the ring when copy 1 is answered; it must not read the buffer.
#[test]
fn hazard_01_a_resend_carries_a_private_copy() {
    let mut b = Bench::new(&Shape::default());
    // The first answer to a write takes long.
    let mut first = true;
    b.net.borrow_mut().fault = Box::new(move |way, frame| {
        let slow = way == Way::ToInitiator && frame.len() == 60 && ata(frame).is_some();
        if slow && std::mem::take(&mut first) {
            Fate::Delay(400 * MS)
        } else {
            Fate::Pass
        }
    });
    let user = b.write(8, 16);
    b.run(5 * MS);
    b.nic(0).ring.link = Link::Down;
    b.run_until(SEC, |b| b.is_done(user));
    assert_eq!(b.done[&user], Ok(()));
    assert!(
        !b.nic(0).ring.waiting.is_empty(),
        "a copy waits in the ring"
    );
    b.net.borrow_mut().record = true;
    b.nic(0).ring.link = Link::Up;
    b.finish();
    let late = writes_seen(&b);
    assert!(!late.is_empty());
    for (_, payload) in late {
        assert_eq!(payload[..512], content(8, user));
    }
}

/// Hazard 2: a copy never changes the header of one that is still queued.
#[test]
fn hazard_02_each_copy_has_a_header_of_its_own() {
    let mut b = Bench::new(&Shape::default());
    b.net.borrow_mut().record = true;
    b.nic(0).ring.link = Link::Down;
    let user = b.write(8, 4);
    b.run(SEC);
    assert!(
        b.nic(0).ring.waiting.len() >= 3,
        "copies are queued behind each other"
    );
    b.nic(0).ring.link = Link::Up;
    assert_eq!(b.wait(user), Ok(()));
    b.finish();
    let writes = writes_seen(&b);
    let mut tags: Vec<_> = writes.iter().map(|(tag, _)| *tag).collect();
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), writes.len(), "each copy has a tag of its own");
    assert!(writes.iter().all(|(_, p)| p[..512] == content(8, user)));
}

/// Hazard 28: a core that did not run for a second does not send everything again.
#[test]
fn hazard_28_a_pause_causes_no_storm() {
    let mut b = Bench::new(&Shape::default());
    for i in 0..16 {
        b.write(i * 16, 16);
    }
    b.turn();
    // Answers arrive while the core is away, and are there when it comes back.
    b.asleep[0] = true;
    b.run(SEC);
    b.asleep[0] = false;
    b.turn_at_once();
    b.finish();
    assert_eq!(b.cores[0].counters().resends, 0);
    b.now += 100 * SEC;
    let user = b.write(5000, 8);
    b.turn();
    b.now += 100 * SEC;
    b.turn_at_once();
    assert_eq!(b.wait(user), Ok(()));
    assert_eq!(b.cores[0].counters().resends, 0);
    assert_eq!(b.stats(0).flushes, 0);
    b.finish();
}

/// Hazard 28: time that a core did not run does not count against a driver that holds buffers.
#[test]
fn hazard_28_a_pause_does_not_stop_the_port() {
    let mut b = Bench::new(&Shape {
        drain_ns: 500 * MS,
        ..Shape::default()
    });
    b.nic(0).ring.link = Link::Down;
    b.write(0, 16);
    b.run(5 * MS);
    b.cores[0].abort_all();
    b.run(5 * MS);
    b.now += 5 * SEC;
    b.turn_at_once();
    assert_eq!(
        b.stats(0).flushes,
        0,
        "the driver had 5 ms to let go, not 5 s"
    );
    b.nic(0).ring.link = Link::Up;
    b.finish();
}

/// The answer to an old copy says nothing of what was put on the ring after that copy.
#[test]
fn an_answer_to_the_first_copy_frees_no_later_frame() {
    let mut b = Bench::new(&Shape {
        drain_ns: 100 * SEC,
        ..Shape::default()
    });
    let mut first = true;
    b.net.borrow_mut().fault = Box::new(move |way, frame| {
        let slow = way == Way::ToInitiator && frame.len() == 60 && ata(frame).is_some();
        if slow && std::mem::take(&mut first) {
            Fate::Delay(600 * MS)
        } else {
            Fate::Pass
        }
    });
    let old = b.write(0, 16);
    b.run(5 * MS);
    b.nic(0).ring.link = Link::Down;
    let new = b.write(100, 16);
    b.run(400 * MS);
    assert!(
        b.stats(0).bounced > 0,
        "copies of the first follow the second in the ring"
    );
    b.run_until(SEC, |b| b.is_done(old));
    b.cores[0].abort_all();
    b.run(SEC);
    assert!(!b.is_done(new), "the ring still reads it");
    b.nic(0).ring.link = Link::Up;
    assert_eq!(b.wait(new), Err(IoError::Aborted));
    b.finish();
}

/// A frame that went round and is in the ring again is no reason to wait for.
#[test]
fn a_frame_that_is_used_again_no_longer_reads_the_first_write() {
    let shape = Shape {
        header: (8, 2),
        drain_ns: 100 * SEC,
        ..Shape::default()
    };
    let mut b = Bench::new(&shape);
    b.net.borrow_mut().fault = Box::new(|_, _| Fate::Drop);
    let write = b.write(0, 16);
    (0..6).for_each(|i| _ = b.read(100 + i * 16, 16));
    b.run(1500 * MS);
    b.nic(0).ring.link = Link::Down;
    b.run_until(10 * SEC, |b| {
        b.events.iter().any(|e| matches!(e, Event::Lost { .. }))
    });
    b.run(5 * MS);
    assert_eq!(b.nic(0).in_place(), 0);
    assert_eq!(
        b.done.get(&write),
        Some(&Err(IoError::LunLost)),
        "{}",
        b.summary()
    );
    b.net.borrow_mut().fault = Box::new(|_, _| Fate::Pass);
    b.nic(0).ring.link = Link::Up;
    b.wait_up();
    b.finish();
}

/// Hazard 11: more answers than a turn looks at are no reason to send anything again.
#[test]
fn hazard_11_a_full_receive_ring_is_no_reason_to_send_again() {
    let mut shape = Shape {
        header: (800, 16),
        ring: 512,
        ..Shape::default()
    };
    (shape.config.slots, shape.config.ios) = (512, 512);
    let mut b = Bench::without_luns(&shape);
    b.net.borrow_mut().hosts[0].target.config_mut().buffer_count = 400;
    b.wait_up();
    for i in 0..30 {
        let user = b.read(i * 16, 16);
        assert_eq!(b.wait(user), Ok(()));
    }
    (0..200).for_each(|i| _ = b.read(i * 16, 16));
    b.turn();
    b.asleep[0] = true;
    // Less than a pause, more than a timeout.
    b.run(45 * MS);
    b.asleep[0] = false;
    b.turn_at_once();
    b.finish();
    assert_eq!(b.cores[0].counters().resends, 0, "all answers were there");
}

/// Hazard 32: header and payload are let go of one by one, in either order.
#[test]
fn hazard_32_both_segments_are_watched() {
    for policy in [
        Policy::NextBurst,
        Policy::Reuse,
        Policy::Odd,
        Policy::NearlyFull(8),
    ] {
        // Few frames and a small ring, so that each is used again as soon as it may be.
        let shape = Shape {
            policy,
            header: (12, 4),
            ring: 12,
            ..Shape::default()
        };
        let mut b = Bench::new(&shape);
        b.nic(0).ring.split = true;
        for i in 0..300 {
            while b.pending.len() < 16
                && b.submit(0, 0, Op::Write, i * 16, 16, Memory::One).is_err()
            {
                b.turn();
            }
            b.turn();
        }
        b.finish();
        assert!(
            b.stats(0).zero_copy > 100 && b.nic(0).ring.split_count > 100,
            "{policy:?}"
        );
    }
}
