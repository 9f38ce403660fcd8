//! What a device's pools need: each pool's size is a sum with a name for every holder.

use super::mempool::Mempool;
use std::fmt;

/// What the pools of a device need, by holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    lines: Vec<NeedLine>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NeedLine {
    what: &'static str,
    holders: String,
    count: u32,
    bytes: u64,
}

impl MemoryNeed {
    pub(super) fn add(
        &mut self,
        what: &'static str,
        queues: u16,
        room: u32,
        holders: &[(&str, u32)],
    ) -> u32 {
        let count = holders
            .iter()
            .fold(0_u32, |sum, (_, n)| sum.saturating_add(*n));
        let names = holders
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{name} {n}"));
        let holders = names.collect::<Vec<_>>().join(" + ");
        let bytes = u64::from(queues) * Mempool::bytes(count, room);
        self.lines.push(NeedLine {
            what,
            holders,
            count: count.saturating_mul(queues.into()),
            bytes,
        });
        count
    }

    /// The sum in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }

    /// The sum in MiB, rounded up.
    #[must_use]
    pub fn total_mib(&self) -> u64 {
        self.total().div_ceil(1 << 20)
    }
}

impl fmt::Display for MemoryNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for NeedLine {
            what,
            holders,
            count,
            bytes,
        } in &self.lines
        {
            let mib = *bytes as f64 / f64::from(1 << 20);
            writeln!(f, "  {what:<15} {count:>6} = {mib:>7.1} MiB ({holders})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_need_names_its_holders() {
        let mut need = MemoryNeed::default();
        assert_eq!(
            need.add("header frames", 2, 256, &[("slots", 10), ("ring", 20)]),
            30
        );
        let text = need.to_string();
        assert!(
            text.contains("header frames") && text.contains("slots 10 + ring 20"),
            "{text}"
        );
        assert!(text.contains(" 60 ="), "{text}");
    }
}
