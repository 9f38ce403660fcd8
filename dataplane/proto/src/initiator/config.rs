//! What an initiator is made with.

use super::MAX_PORTS;
use super::pacing::PacingLimits;

/// What an initiator is made with. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// This core's number, which is a part of each tag.
    pub core: u32,
    /// How many cores share the ports.
    pub cores: u32,
    /// AoE commands in flight at most; at least 32, and `cores * slots` up to 2^24.
    pub slots: u32,
    /// I/Os in flight at most.
    pub ios: u32,
    /// LUNs at most, up to 65,535.
    pub luns: u16,
    /// Whether LUNs that nobody configured are added when they answer.
    pub discover: bool,
    /// How long a frame may live in the network: no tag comes back sooner.
    pub frame_lifetime_ns: u64,
    /// How long commands are sent again before the LUN counts as lost.
    pub loss_timeout_ns: u64,
    /// How often LUNs that are not up are looked for.
    pub probe_interval_ns: u64,
    /// How often all targets are asked to answer.
    pub discovery_interval_ns: u64,
    /// The most commands in flight to one LUN, whatever its buffer count.
    pub window_max: u32,
    /// A turn that comes later than this after the last one: the core did not run, and the time
    /// counts for no timeout.
    pub pause_ns: u64,
    /// When to send again.
    pub pacing: PacingLimits,
    /// Where tags start: something unpredictable.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        const MS: u64 = 1_000_000;
        Self {
            core: 0,
            cores: 1,
            slots: 1024,
            ios: 1024,
            luns: 256,
            discover: true,
            frame_lifetime_ns: 10_000 * MS,
            loss_timeout_ns: 30_000 * MS,
            probe_interval_ns: 1_000 * MS,
            discovery_interval_ns: 60_000 * MS,
            window_max: 256,
            pause_ns: 50 * MS,
            pacing: PacingLimits {
                rto_min_ns: 20 * MS,
                rto_max_ns: 4_000 * MS,
                rto_initial_ns: 200 * MS,
            },
            seed: 0,
        }
    }
}

/// Why an [`Initiator`] could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Too few or too many slots for the tags.
    #[error(
        "{slots} slots on each of {cores} cores do not fit a tag: slots must be 32 or more, and cores times slots at most 2^24"
    )]
    Slots {
        /// Slots asked for.
        slots: u32,
        /// Cores asked for.
        cores: u32,
    },
    /// The core's number is not below the number of cores.
    #[error("core {core} of {cores}: numbers start at 0")]
    Core {
        /// This core's number.
        core: u32,
        /// Cores asked for.
        cores: u32,
    },
    /// No room for any I/O.
    #[error("an initiator needs room for at least one I/O")]
    Ios,
    /// More ports than [`MAX_PORTS`].
    #[error("more than {MAX_PORTS} ports")]
    Ports,
}
