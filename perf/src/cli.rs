//! Options of `aoe-perf`.

use crate::host::HostArgs;
use crate::size::Size;
use aoe_proto::ShelfSlot;
use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  Does it work here? Initiator and target in one process, no NIC, no privileges:
    aoe-perf selftest

  4 KiB random reads of e1.1 for 10 seconds:
    aoe-perf run --port net_af_packet0,iface=eth1,framesz=9216,blocksz=36864,framecnt=1024 \\
        --lun e1.1 --rw randread --bs 4k --depth 32

  Mixed I/O on every LUN there is, each block verified, on a NIC bound to vfio-pci:
    aoe-perf run --port 0000:01:00.0 --mtu 9000 --all --rw randrw --rwmix 70 --size 1G --verify

  The protocol's own cost: reads whose data nobody looks at, as JSON:
    aoe-perf run --port 0000:01:00.0 --mtu 9000 --lun e1.1 --rw randread --no-copy --json

Exit codes: 0 good, 1 failed or I/O errors, 2 wrong usage, 3 data that is not what was written.";

/// Load generator for AoE targets, on DPDK.
#[derive(Parser, Debug)]
#[command(name = "aoe-perf", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Put load on LUNs and measure. Writes destroy what is on them.
    Run(Box<RunArgs>),
    /// Initiator and target in one process, without NIC and privileges: is everything in order?
    Selftest(SelftestArgs),
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// `--rw`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Rw {
    /// Blocks in order.
    Read,
    /// Blocks in order.
    Write,
    /// Blocks in order, some read, some written.
    Rw,
    /// Blocks at random.
    Randread,
    /// Blocks at random.
    Randwrite,
    /// Blocks at random, some read, some written.
    Randrw,
}

impl Rw {
    /// Blocks in random order.
    #[must_use]
    pub const fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite | Self::Randrw)
    }

    /// Percentage of reads.
    #[must_use]
    pub const fn read_percent(self, mix: u8) -> u8 {
        match self {
            Self::Read | Self::Randread => 100,
            Self::Write | Self::Randwrite => 0,
            Self::Rw | Self::Randrw => mix,
        }
    }

    /// As it is given.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// Options of `aoe-perf run`.
#[derive(Args, Debug, Clone)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The port: a vdev string of DPDK's, or a PCI address.
    #[arg(long, value_name = "DEVICE")]
    pub port: String,
    /// A LUN (repeatable), such as e1.1.
    #[arg(long, value_name = "SHELF.SLOT", required_unless_present = "all")]
    pub lun: Vec<ShelfSlot>,
    /// All LUNs that answer.
    #[arg(long, conflicts_with = "lun")]
    pub all: bool,
    /// What to do, and in which order of blocks.
    #[arg(long, value_enum, default_value_t = Rw::Randread)]
    pub rw: Rw,
    /// Percentage of reads of rw and randrw.
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub rwmix: u8,
    /// Size of each I/O, whole sectors of 512 bytes.
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = block_size)]
    pub bs: Size,
    /// I/Os in flight, over all LUNs.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub depth: u32,
    /// Run for so many seconds [default: 10].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub time: Option<f64>,
    /// Run for so many I/Os, or until the time is over if both are given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Where to start on each LUN.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = aligned)]
    pub offset: Size,
    /// How much of each LUN to use; to its end if not given.
    #[arg(long, value_name = "SIZE", value_parser = aligned)]
    pub size: Option<Size>,
    /// Write patterns, check every read of what was written, and read all back at the end.
    #[arg(long)]
    pub verify: bool,
    /// Seed of the random choices, to repeat a run.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Options of the host.
    #[command(flatten)]
    pub host: HostArgs,
    /// AoE commands in flight at most.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(32..=65_536))]
    pub slots: u32,
    /// Copy what is written into frames even if the driver could take it in place.
    #[arg(long)]
    pub copy_only: bool,
    /// Do not copy what is read out of its frames: nobody looks at it.
    #[arg(long, conflicts_with = "verify")]
    pub no_copy: bool,
    /// Wait so long for the LUNs to come up.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub wait: f64,
    /// Print the result as one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Options of `aoe-perf selftest`.
#[derive(Args, Debug, Clone)]
pub struct SelftestArgs {
    /// CPU to run on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub cpu: usize,
    /// Seconds of each speed figure.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub time: f64,
    /// Print the result as one JSON document.
    #[arg(long)]
    pub json: bool,
}

fn block_size(text: &str) -> Result<Size, String> {
    let size: Size = text
        .parse()
        .map_err(|e: crate::size::SizeError| e.to_string())?;
    size.sectors()?;
    if size.0 > 64 << 20 {
        return Err("64M is the most".into());
    }
    Ok(size)
}

fn aligned(text: &str) -> Result<Size, String> {
    let size: Size = text
        .parse()
        .map_err(|e: crate::size::SizeError| e.to_string())?;
    if size.0 > 0 {
        size.sectors()?;
    }
    Ok(size)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s.is_finite() && (0.0..=1e6).contains(&s) => Ok(s),
        _ => Err("not a number of seconds".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn options_are_consistent() {
        Cli::command().debug_assert();
        crate::serve::TargetArgs::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        let run = ["aoe-perf", "run", "--port", "net_null0"];
        for extra in [
            &[][..],
            &["--lun", "e1"],
            &["--lun", "e1.1", "--all"],
            &["--all", "--bs", "100"],
            &["--all", "--bs", "1G"],
            &["--all", "--depth", "0"],
            &["--all", "--verify", "--no-copy"],
            &["--all", "--time", "-1"],
            &["--all", "--slots", "31"],
        ] {
            assert!(
                Cli::try_parse_from(run.iter().chain(extra)).is_err(),
                "{extra:?}"
            );
        }
        assert!(Cli::try_parse_from(run.iter().chain(&["--lun", "e1.1", "--bs", "64k"])).is_ok());
    }
}
