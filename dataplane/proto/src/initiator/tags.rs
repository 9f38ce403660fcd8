//! Tags: `core | slot | generation` in 32 bits.
//!
//! A response names its slot by index, so finding it takes no hash. The generation, which starts
//! at an unpredictable value and grows with each transmission, tells the copies of one command
//! apart and turns away what belongs to an earlier user of the slot. No tag value comes back
//! within the lifetime of a frame: see [`Lap`].

use super::time::Time;
use crate::Tag;

/// How the 32 bits of a tag are divided. Shape: `core_bits + slot_bits <= 24`.
#[derive(Clone, Copy, Debug)]
pub struct TagLayout {
    core: u32,
    core_bits: u32,
    slot_bits: u32,
}

impl TagLayout {
    /// `slots` is rounded up to a power of two; `core < cores`. At least 8 bits of generation
    /// remain, or this is `None`.
    #[must_use]
    pub fn new(core: u32, cores: u32, slots: u32) -> Option<Self> {
        let bits = |n: u32| {
            n.max(1)
                .checked_next_power_of_two()
                .map(u32::trailing_zeros)
        };
        let (core_bits, slot_bits) = (bits(cores)?, bits(slots)?);
        (core < cores.max(1) && core_bits + slot_bits <= 24).then_some(Self {
            core,
            core_bits,
            slot_bits,
        })
    }

    #[inline]
    const fn gen_bits(self) -> u32 {
        32 - self.core_bits - self.slot_bits
    }

    /// The mask of a generation.
    #[inline]
    #[must_use]
    pub const fn gen_mask(self) -> u32 {
        u32::MAX >> (32 - self.gen_bits())
    }

    /// The tag of a slot's transmission.
    #[inline]
    #[must_use]
    pub const fn tag(self, slot: u32, generation: u32) -> Tag {
        // In 64 bits: a field of no bits would shift by all 32.
        let core = (self.core as u64) << (32 - self.core_bits);
        let slot = (slot as u64) << self.gen_bits();
        Tag((core | slot) as u32 | (generation & self.gen_mask()))
    }

    /// The core that sent a frame with this tag.
    #[inline]
    #[must_use]
    pub const fn core_of(self, tag: Tag) -> u32 {
        ((tag.0 as u64) >> (32 - self.core_bits)) as u32
    }

    /// Slot and generation, if the tag is one of this core's.
    #[inline]
    #[must_use]
    pub const fn split(self, tag: Tag) -> Option<(u32, u32)> {
        if self.core_of(tag) != self.core {
            return None;
        }
        let slot = ((tag.0 as u64) >> self.gen_bits()) & ((1 << self.slot_bits) - 1);
        Some((slot as u32, tag.0 & self.gen_mask()))
    }

    /// How many tags a slot may use before [`Lap`] looks at the clock.
    #[inline]
    #[must_use]
    pub const fn half_lap(self) -> u32 {
        1 << (self.gen_bits() - 1)
    }
}

/// Keeps a slot's tags from coming back too soon.
///
/// A value repeats after `2^gen_bits` uses. Any such run of uses contains a whole half lap, so if
/// each half lap lasts a frame lifetime, so does the time between two equal tags.
#[derive(Clone, Copy, Default, Debug)]
pub struct Lap {
    uses: u32,
    began: Time,
}

impl Lap {
    /// Nothing used yet.
    pub const NEW: Self = Self {
        uses: 0,
        began: Time(0),
    };

    /// Counts one use; false if the slot has to rest until the frame lifetime has passed.
    #[inline]
    pub fn advance(&mut self, layout: TagLayout, now: Time, lifetime_ns: u64) -> bool {
        if self.uses == 0 {
            self.began = now;
        }
        if self.uses >= layout.half_lap() {
            if now.since(self.began) < lifetime_ns {
                return false;
            }
            *self = Self {
                uses: 0,
                began: now,
            };
        }
        self.uses += 1;
        true
    }
}

/// A stream of unpredictable-enough starting generations from one seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Seed(pub u64);

impl Seed {
    pub(super) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_for_every_division() {
        for cores in [1, 2, 3, 16] {
            for slots in [1, 64, 1000, 65_536] {
                for core in 0..cores {
                    let layout = TagLayout::new(core, cores, slots).unwrap();
                    for slot in [0, slots / 2, slots - 1] {
                        for generation in [0, 1, layout.gen_mask()] {
                            let tag = layout.tag(slot, generation);
                            assert_eq!(layout.split(tag), Some((slot, generation)));
                            assert_eq!(layout.core_of(tag), core);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn another_cores_tag_is_not_ours() {
        let (a, b) = (
            TagLayout::new(0, 2, 64).unwrap(),
            TagLayout::new(1, 2, 64).unwrap(),
        );
        assert_eq!(a.split(b.tag(3, 7)), None);
    }

    #[test]
    fn too_many_slots_leave_no_generation() {
        assert!(TagLayout::new(0, 16, 1 << 21).is_none());
        assert!(TagLayout::new(2, 2, 64).is_none());
    }

    /// Hazard 36: no value comes back within the lifetime, however fast the slot is used.
    #[test]
    fn no_tag_comes_back_within_a_lifetime() {
        let layout = TagLayout::new(0, 1, 1 << 24).unwrap();
        let (lifetime, mut lap, mut now) = (1_000_000, Lap::default(), Time(0));
        let mut last = std::collections::HashMap::new();
        for generation in 0..2_000_u32 {
            while !lap.advance(layout, now, lifetime) {
                now = now.plus(1_000);
            }
            now = now.plus(1);
            if let Some(before) = last.insert(generation & layout.gen_mask(), now) {
                assert!(now.since(before) >= lifetime);
            }
        }
    }
}
