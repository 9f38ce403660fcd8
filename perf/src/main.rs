//! The load generator.

use aoe_perf::cli::{Cli, Command};
use aoe_perf::{host, run, selftest};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "aoe-perf", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        Command::Run(args) => {
            host::start_log();
            run::run(&args)
        }
        Command::Selftest(args) => {
            host::start_log();
            selftest::run(&args)
        }
    };
    match result {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => host::report_error("aoe-perf", &error),
    }
}
