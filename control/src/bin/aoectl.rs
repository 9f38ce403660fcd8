//! The appliance's command line client.

use aoe_control::client::{CallError, call};
use aoe_control::views::{IdentifyView, LunView};
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// As `println!`, but a reader that has had enough (`| head`) is no error.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}

/// Asks a running aoed.
#[derive(Parser)]
#[command(
    name = "aoectl",
    version,
    after_help = "\
Examples:
  aoectl discover                  ask all targets to answer, show the LUNs
  aoectl list                      show the LUNs
  aoectl identify e1.1             what the disk says of itself
  aoectl --json stat | jq .        ports, frame pools, counters

Exit codes: 0 ok, 1 no daemon or it refused, 2 bad arguments, 3 no LUN at all (discover, list)."
)]
struct Args {
    /// The daemon's control socket.
    #[arg(
        short,
        long,
        value_name = "PATH",
        env = "AOED_SOCKET",
        default_value = "/run/aoed/control.sock"
    )]
    socket: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ask all targets to answer, wait a moment, and list the LUNs.
    Discover {
        /// How long to wait for answers, in milliseconds.
        #[arg(long, default_value_t = 1000, value_name = "MS")]
        wait: u64,
    },
    /// List the LUNs: state, size, target, traffic.
    List,
    /// Show ports, frame pools, counters and dropped frames.
    Stat,
    /// Show what a LUN's disk says of itself.
    Identify {
        /// The LUN's name or address, such as e1.1.
        lun: String,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("aoectl: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, CallError> {
    let (method, params) = match &args.command {
        Command::Discover { wait } => ("discover", json!({ "wait_ms": wait })),
        Command::List => ("list", Value::Null),
        Command::Stat => ("stat", Value::Null),
        Command::Identify { lun } => ("identify", json!({ "lun": lun })),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "aoectl", &mut script);
            let _ = std::io::Write::write_all(&mut std::io::stdout(), &script);
            return Ok(ExitCode::SUCCESS);
        }
    };
    let answer = call(&args.socket, method, params)?;
    if args.json {
        say!("{answer:#}");
    }
    let bad = |e: serde_json::Error| CallError::Answer(e.to_string());
    match args.command {
        Command::Discover { .. } | Command::List => {
            let luns = answer.get("luns").cloned().unwrap_or_default();
            let luns: Vec<LunView> = serde_json::from_value(luns).map_err(bad)?;
            if !args.json {
                list(&luns);
            }
            if luns.is_empty() {
                eprintln!("aoectl: no target has answered");
                return Ok(ExitCode::from(3));
            }
        }
        Command::Identify { .. } if !args.json => {
            identify(&serde_json::from_value(answer).map_err(bad)?);
        }
        Command::Stat if !args.json => stat(&answer),
        Command::Stat | Command::Identify { .. } | Command::Completions { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// 1536 MiB -> "1.5 GiB".
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

fn list(luns: &[LunView]) {
    if luns.is_empty() {
        return;
    }
    say!(
        "{:<16} {:<10} {:<11} {:>10}  {:<17} {:>4} {:>5} {:>6} {:>9} {:>10} {:>7} {:>6}",
        "NAME",
        "LUN",
        "STATE",
        "SIZE",
        "TARGET",
        "PORT",
        "FRAME",
        "WINDOW",
        "RTT",
        "I/OS",
        "RESENDS",
        "FAILED"
    );
    for lun in luns {
        say!(
            "{:<16} {:<10} {:<11} {:>10}  {:<17} {:>4} {:>5} {:>6} {:>6.0} us {:>10} {:>7} {:>6}",
            lun.name,
            lun.lun,
            lun.state,
            size(lun.size_bytes),
            lun.mac,
            lun.port,
            lun.sectors_per_frame,
            lun.window,
            lun.rtt_us,
            lun.completed,
            lun.resends,
            lun.failed
        );
        if let Some(stranger) = &lun.stranger {
            say!(
                "{:16} another target answers for it and is not used: {stranger}",
                ""
            );
        }
    }
}

fn identify(lun: &LunView) {
    let Some(id) = &lun.identify else { return };
    let IdentifyView {
        model,
        serial,
        firmware,
        ..
    } = id;
    let yes = |on: bool| if on { "yes" } else { "no" };
    say!("LUN              {} ({}), {}", lun.name, lun.lun, lun.state);
    say!("model            {model}");
    say!("serial           {serial}");
    say!("firmware         {firmware}");
    say!("wwn              {}", id.wwn.as_deref().unwrap_or("none"));
    say!(
        "size             {} ({} sectors)",
        size(lun.size_bytes),
        id.sectors
    );
    say!(
        "sector           {} bytes logical, {} physical",
        id.logical_sector_bytes,
        id.physical_sector_bytes
    );
    say!("48-bit LBA       {}", yes(id.lba48));
    say!(
        "flush            {}, EXT {}",
        yes(id.flush),
        yes(id.flush_ext)
    );
    say!(
        "write cache      {}",
        if id.write_cache { "on" } else { "off" }
    );
    say!(
        "trim             {}, zeroes afterwards {}",
        yes(id.trim),
        yes(id.trim_zeroes)
    );
    say!("durability       {}", lun.durability);
    if lun.durability == "unknown" {
        say!("                 (the target promises nothing; vblade buffers unless run with -s)");
    }
    say!("target           {} through port {}", lun.mac, lun.port);
    say!(
        "limits           {} commands, {} sectors a frame; frames carry {}",
        lun.buffer_count,
        lun.target_max_sectors,
        lun.sectors_per_frame
    );
}

fn stat(answer: &Value) {
    let appliance = &answer["appliance"];
    say!(
        "aoed {} on {}, {}",
        text(&appliance["version"]),
        text(&appliance["dpdk"]),
        if appliance["huge_pages"] == json!(true) {
            "huge pages"
        } else {
            "ordinary pages"
        }
    );
    for (i, port) in list_of(&appliance["ports"]).iter().enumerate() {
        say!("port {i}: {}", text(&port["device"]));
        print_counters(port, "  ");
    }
    for core in list_of(&answer["cores"]) {
        say!("core {}", core["core"]);
        print_counters(core, "  ");
        say!("  drops");
        print_counters(&core["drops"], "    ");
        for (i, port) in list_of(&core["ports"]).iter().enumerate() {
            say!("  port {i}");
            print_counters(port, "    ");
            for pool in ["header_frames", "full_frames"] {
                say!("    {pool}");
                print_counters(&port[pool], "      ");
            }
        }
    }
}

fn list_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// Numbers, strings and truths; zeroes are left out so that what happened stands out.
fn print_counters(value: &Value, indent: &str) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let shown = match value {
            _ if name == "device" => continue,
            Value::Number(n) if n.as_u64() == Some(0) => continue,
            Value::Number(n) => n.to_string(),
            Value::String(s) => s.clone(),
            Value::Bool(b) => b.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        say!("{indent}{name:<22} {shown}");
    }
}
