//! The AoE appliance's daemon.

use aoe_control::{config::Config, daemon};
use clap::{CommandFactory, Parser};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// Connects to ATA-over-Ethernet targets through DPDK and exports their LUNs over NBD.
#[derive(Parser)]
#[command(
    name = "aoed",
    version,
    after_help = "\
Examples:
  aoed --config /etc/aoed.toml            run the appliance
  aoed --config /etc/aoed.toml --check    only look for mistakes in the file
  AOED__ENGINE__CORES=2,3 aoed ...        override engine.cores

Any key of the file can be overridden by an environment variable: AOED__ and the key, with __ for
the dots and commas in lists; tables in lists ([[port]], [[lun]]) cannot. configs/appliance.toml documents every key.

Exit codes: 0 stopped by a signal, 1 failed while running, 2 bad arguments or configuration,
70 a polling core has panicked. RUST_LOG sets what is logged (default: info)."
)]
struct Args {
    /// The configuration, a TOML file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "completions"
    )]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Print completions for a shell and exit.
    #[arg(long, value_name = "SHELL")]
    completions: Option<clap_complete::Shell>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(shell) = args.completions {
        clap_complete::generate(shell, &mut Args::command(), "aoed", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour);
    log.with_writer(std::io::stderr).init();
    let config = match Config::load(&args.config.unwrap_or_default()) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("aoed: {e}");
            return ExitCode::from(2);
        }
    };
    if args.check {
        println!("aoed: the configuration is good");
        return ExitCode::SUCCESS;
    }
    match daemon::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("aoed: {e:#}");
            ExitCode::FAILURE
        }
    }
}
