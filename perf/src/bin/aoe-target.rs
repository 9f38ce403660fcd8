//! The poll-mode lab target.

use aoe_perf::{host, serve};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = serve::TargetArgs::parse();
    if let Some(shell) = args.completions {
        let mut command = serve::TargetArgs::command();
        clap_complete::generate(shell, &mut command, "aoe-target", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    host::start_log();
    match serve::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => host::report_error("aoe-target", &error),
    }
}
