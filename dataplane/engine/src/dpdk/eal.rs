//! DPDK's environment (EAL): one for each process, started here or by somebody else.

use super::error::{DpdkError, last_error};
use std::ffi::CString;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where the EAL gets its memory from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HugePages {
    /// Huge pages if enough of them are free, ordinary ones otherwise.
    #[default]
    Auto,
    /// Huge pages, or an error.
    Always,
    /// Ordinary pages: no privileges needed.
    Never,
}

/// How to start the EAL.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// The CPU that the calling thread is pinned to.
    pub main_cpu: usize,
    /// Memory for all pools and buffers, in MiB.
    pub memory_mb: u32,
    /// Which pages.
    pub huge_pages: HugePages,
    /// Whether the PCI bus is scanned. Virtual devices need none of it.
    pub pci: bool,
    /// Further arguments, as they are.
    pub extra: Vec<String>,
    /// DPDK's log level: a name or a number, as `--log-level` takes it.
    pub log_level: String,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            main_cpu: 0,
            memory_mb: 256,
            huge_pages: HugePages::Auto,
            pci: false,
            extra: Vec::new(),
            log_level: "error".into(),
        }
    }
}

/// Proof that the EAL is up in this process. It stays up until the process ends: tearing it down
/// would take the memory away from under frames that a driver may still hold.
#[derive(Clone, Copy, Debug)]
pub struct Eal(());

static STATE: AtomicU8 = AtomicU8::new(NOT_OURS);
/// Nobody has started it through us.
const NOT_OURS: u8 = 0;
const UP: u8 = 1;
const FAILED: u8 = 2;

impl Eal {
    /// Starts the EAL. The calling thread becomes its main lcore and is pinned.
    ///
    /// # Errors
    /// If it is up already, or DPDK refuses.
    pub fn start(config: &EalConfig) -> Result<Self, DpdkError> {
        config.check()?;
        if STATE.swap(UP, Ordering::SeqCst) == UP {
            return Err(DpdkError::EalTwice);
        }
        let args = config.arguments();
        let c_args: Vec<CString> = args
            .iter()
            .filter_map(|a| CString::new(a.as_str()).ok())
            .collect();
        let mut pointers: Vec<_> = c_args.iter().map(|a| a.as_ptr().cast_mut()).collect();
        // SAFETY: the strings live through the call, and DPDK copies what it keeps; it may only
        // reorder the array of pointers.
        let rc = unsafe { dpdk_sys::rte_eal_init(pointers.len() as i32, pointers.as_mut_ptr()) };
        if rc < 0 {
            STATE.store(FAILED, Ordering::SeqCst);
            return Err(DpdkError::Eal {
                reason: last_error(),
                args: args.join(" "),
                hint: config.hint(),
            });
        }
        Ok(Self(()))
    }

    /// Uses the EAL that somebody else in this process has started.
    ///
    /// # Errors
    /// If there is none.
    pub fn attach() -> Result<Self, DpdkError> {
        // SAFETY: reads a global that is 0 before the EAL's start.
        let count = unsafe { dpdk_sys::rte_lcore_count() };
        // After a failed start there are lcores, too.
        if count == 0 || STATE.load(Ordering::SeqCst) == FAILED {
            return Err(DpdkError::NoEal);
        }
        STATE.store(UP, Ordering::SeqCst);
        Ok(Self(()))
    }

    /// Makes the calling thread known to DPDK, so that it has caches of its own in the mempools.
    ///
    /// # Errors
    /// If DPDK has no more lcores.
    pub fn register_thread(self) -> Result<(), DpdkError> {
        // SAFETY: the EAL is up.
        match unsafe { dpdk_sys::rte_thread_register() } {
            0 => Ok(()),
            _ => Err(DpdkError::Thread(last_error())),
        }
    }

    /// The version of DPDK that runs.
    #[must_use]
    pub fn version(self) -> String {
        // SAFETY: returns a static string.
        let text = unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_version()) };
        text.to_string_lossy().into_owned()
    }

    /// Whether addresses for devices are virtual ones.
    #[must_use]
    pub fn iova_is_va(self) -> bool {
        // SAFETY: reads a global that was set at the start.
        unsafe { dpdk_sys::rte_eal_iova_mode() == dpdk_sys::rte_iova_mode_RTE_IOVA_VA }
    }

    /// Whether the EAL runs on huge pages.
    #[must_use]
    pub fn has_hugepages(self) -> bool {
        // SAFETY: reads a global that was set at the start.
        unsafe { dpdk_sys::rte_eal_has_hugepages() != 0 }
    }
}

impl EalConfig {
    /// What DPDK would answer with its whole usage text, or not at all for a long time.
    fn check(&self) -> Result<(), DpdkError> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cpus = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cpus = cpus.unwrap_or_default().trim();
        if !cpus.is_empty() && !is_in_list(cpus, self.main_cpu) {
            return Err(DpdkError::NoCpu {
                cpu: self.main_cpu,
                cpus: cpus.into(),
            });
        }
        let there = meminfo("MemTotal:") / 1024;
        if there > 0 && u64::from(self.memory_mb) > there {
            return Err(DpdkError::TooMuch {
                asked: self.memory_mb,
                there,
            });
        }
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let mut args: Vec<String> = ["dpdk-aoe", "-l"].map(Into::into).into();
        args.push(self.main_cpu.to_string());
        args.push(format!("--log-level={}", self.log_level));
        args.push("--no-telemetry".into());
        if !self.pci {
            args.push("--no-pci".into());
        }
        let huge = match self.huge_pages {
            HugePages::Always => true,
            HugePages::Never => false,
            HugePages::Auto => hugepages_free_mb() >= u64::from(self.memory_mb),
        };
        if huge {
            args.push("--in-memory".into());
            // Memory that is shared with a virtual peer has to be in few files.
            args.push("--single-file-segments".into());
        } else {
            args.extend(["--no-huge", "--no-shconf"].map(String::from));
        }
        args.extend(["-m".into(), self.memory_mb.to_string()]);
        args.extend(self.extra.iter().cloned());
        args
    }

    fn hint(&self) -> &'static str {
        match self.huge_pages {
            HugePages::Always => {
                "; are enough huge pages reserved (/proc/meminfo), and are you root?"
            }
            HugePages::Auto | HugePages::Never => "; is there enough free memory (eal.memory_mb)?",
        }
    }
}

/// Whether a number is in a list such as `0-3,8`.
fn is_in_list(list: &str, number: usize) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&number),
            _ => false,
        }
    })
}

/// A field of /proc/meminfo, 0 if there is none.
fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Free huge pages of the default size, in MiB; 0 if they cannot be used by this user.
#[must_use]
pub fn hugepages_free_mb() -> u64 {
    meminfo("HugePages_Free:") * meminfo("Hugepagesize:") / 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn cpu_lists() {
        for (list, number, there) in [
            ("0-1", 1, true),
            ("0-1", 2, false),
            ("0,2-3", 3, true),
            ("0,2-3", 1, false),
        ] {
            assert_eq!(super::is_in_list(list, number), there, "{number} in {list}");
        }
    }
}
