//! Hazard 30: nothing on the data path allocates after the start, in trouble neither.

mod nic;

use aoe_proto::initiator::Op;
use nic::alloc::{Counting, count};
use nic::bench::Memory;
use nic::ring::Link;
use nic::{Bench, Fate, MS, Policy, SEC, Shape};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A shape whose tables all fill up.
fn shape(policy: Policy, zero_copy: bool) -> Shape {
    let mut shape = Shape {
        policy,
        zero_copy,
        header: (40, 8),
        full: (40, 8),
        ring: 40,
        drain_ns: 300 * MS,
        ..Shape::default()
    };
    shape.config.loss_timeout_ns = SEC;
    shape
}

/// Faults of every kind, full rings, lost LUNs, aborts, flushes.
fn trouble(b: &mut Bench) {
    let mut lba = 0;
    for round in 0..240_u64 {
        let links = [Link::Up, Link::Up, Link::Down, Link::Gone];
        b.nic(0).ring.link = links[(round / 24 % 4) as usize];
        b.nic(0).refuse_attach = round % 3 == 0;
        for i in 0..20 {
            let op = [Op::Write, Op::Read, Op::Flush, Op::Trim][(i % 4) as usize];
            lba += 40;
            let _busy = b.submit(0, 0, op, lba, 40, Memory::One);
        }
        if round % 50 == 49 {
            b.cores[0].abort_all();
            b.cores[0].rescan();
        }
        b.run(60 * MS);
    }
    b.nic(0).ring.link = Link::Up;
}

#[test]
fn hazard_30_nothing_is_allocated() {
    for (policy, zero_copy) in [
        (Policy::NextBurst, true),
        (Policy::Reuse, true),
        (Policy::Stuck(4), true),
        (Policy::AtOnce, false),
        (Policy::Odd, false),
    ] {
        let mut b = Bench::without_luns(&shape(policy, zero_copy));
        let mut n = 0_u64;
        b.net.borrow_mut().fault = Box::new(move |_, _| {
            n += 1;
            match n % 11 {
                0 => Fate::Drop,
                4 => Fate::Twice(3 * MS),
                7 => Fate::Delay(90 * MS),
                _ => Fate::Pass,
            }
        });
        // From the very first turn on: discovery and IDENTIFY count as well.
        let before = count();
        b.wait_up();
        trouble(&mut b);
        assert_eq!(
            count() - before,
            0,
            "{policy:?}: allocations on the data path"
        );
        b.finish();
        assert_eq!(
            count() - before,
            0,
            "{policy:?}: allocations on the data path"
        );
        let stats = b.stats(0);
        assert!(
            b.cores[0].counters().resends > 10 && (stats.flushes > 0) == zero_copy,
            "{}",
            b.summary()
        );
    }
}

#[test]
fn the_allocator_counts() {
    let before = count();
    nic::alloc::counted(|| drop(vec![1, 2, 3]));
    assert_eq!(count() - before, 2);
}
