//! The LUNs as exports see them: kept up to date from the cores' events, read by NBD handshakes.

use crate::config::{Config, Export};
use crate::core::CoreEvent;
use crate::nbd::ExportInfo;
use aoe_proto::ShelfSlot;
use aoe_proto::initiator::{Event, LunId, LunInfo, LunState};
use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};

/// What a LUN's `[[lun]]` says, or the defaults.
#[derive(Clone, Debug)]
struct Settings {
    name: String,
    read_only: bool,
    export: bool,
}

/// One LUN that was up at some time.
#[derive(Clone, Debug)]
struct Entry {
    /// As the last core with news of it sees it.
    info: LunInfo,
    settings: Settings,
    /// How each core sees it.
    cores: Vec<Option<Seen>>,
}

/// A LUN as one core sees it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    id: LunId,
    state: LunState,
    identity: u32,
}

impl Entry {
    /// Cores on which it is up, the `next`th first.
    fn up(&self, next: usize) -> impl Iterator<Item = (usize, Seen)> + '_ {
        let count = self.cores.len().max(1);
        (0..count)
            .map(move |i| next.wrapping_add(i) % count)
            .filter_map(|core| match self.cores.get(core).copied().flatten() {
                Some(seen) if seen.state == LunState::Up => Some((core, seen)),
                _ => None,
            })
    }
}

/// An export that was opened.
pub struct Opened {
    /// What it offers.
    pub info: ExportInfo,
    /// A core on which it is up.
    pub core: usize,
    /// What that core calls it.
    pub lun: LunId,
    /// Which disk it is.
    pub identity: u32,
}

/// All LUNs by address.
#[derive(Debug)]
pub struct Registry {
    luns: RwLock<BTreeMap<ShelfSlot, Entry>>,
    configured: HashMap<ShelfSlot, Settings>,
    export: Export,
    cores: usize,
    max_block: u32,
}

/// Why a LUN cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No such name.
    Unknown,
    /// Known, but its target does not answer.
    Down(String),
}

impl Registry {
    /// An empty registry; the addresses of the configuration were checked.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let luns = config.lun.iter().enumerate().filter_map(|(i, lun)| {
            let address = lun.address(i).ok()?;
            let name = lun.name.clone().unwrap_or_else(|| address.to_string());
            Some((
                address,
                Settings {
                    name,
                    read_only: lun.read_only,
                    export: lun.export,
                },
            ))
        });
        Self {
            luns: RwLock::default(),
            configured: luns.collect(),
            export: config.nbd.export,
            cores: config.engine.cores.len(),
            max_block: config.nbd.max_block_kb * 1024,
        }
    }

    /// Addresses of the configured LUNs.
    #[must_use]
    pub fn configured(&self) -> Vec<ShelfSlot> {
        let mut all: Vec<_> = self.configured.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// Whether no LUN was ever up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.luns
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Configured LUNs that were never up.
    #[must_use]
    pub fn missing(&self) -> Vec<ShelfSlot> {
        let luns = self.luns.read().unwrap_or_else(PoisonError::into_inner);
        self.configured()
            .into_iter()
            .filter(|addr| !luns.contains_key(addr))
            .collect()
    }

    /// The name that a LUN is exported and listed under.
    #[must_use]
    pub fn name(&self, addr: ShelfSlot) -> String {
        self.configured
            .get(&addr)
            .map_or_else(|| addr.to_string(), |s| s.name.clone())
    }

    fn settings(&self, addr: ShelfSlot) -> Settings {
        let configured = self.configured.get(&addr).cloned();
        let export = match self.export {
            Export::All => configured.as_ref().is_none_or(|s| s.export),
            Export::Configured => configured.as_ref().is_some_and(|s| s.export),
            Export::None => false,
        };
        let unnamed = || Settings {
            name: addr.to_string(),
            read_only: false,
            export,
        };
        Settings {
            export,
            ..configured.unwrap_or_else(unnamed)
        }
    }

    /// Takes an event of a core, and says it to the log.
    pub fn event(&self, core: usize, CoreEvent { event, lun }: CoreEvent) {
        let addr = lun.addr;
        match event {
            Event::Up { changed: true, .. } => tracing::error!(
                lun = %addr, mac = %lun.mac, sectors = lun.sectors, core,
                "LUN is up with another size or as another disk; clients of another disk get errors"
            ),
            Event::Up { changed: false, .. } => tracing::info!(
                lun = %addr, mac = %lun.mac, sectors = lun.sectors, frame = lun.sectors_per_frame,
                core, "LUN is up"
            ),
            Event::Lost { .. } => tracing::warn!(
                lun = %addr, mac = %lun.mac, core, "LUN is lost: its target does not answer; its I/O has failed"
            ),
            Event::Limits { .. } => tracing::info!(
                lun = %addr, buffers = lun.buffer_count, sectors = lun.target_max_sectors, core,
                "the target's limits changed"
            ),
            Event::Duplicate { mac, .. } => tracing::error!(
                lun = %addr, mac = %lun.mac, stranger = %mac, core,
                "another target answers for this LUN's address; it is not used"
            ),
            Event::IdentifyFailed { .. } => {
                tracing::warn!(lun = %addr, mac = %lun.mac, core, "IDENTIFY failed");
            }
        }
        let mut luns = self.luns.write().unwrap_or_else(PoisonError::into_inner);
        let entry = luns.entry(addr).or_insert_with(|| Entry {
            info: lun.clone(),
            settings: self.settings(addr),
            cores: vec![None; self.cores],
        });
        if let Some(place) = entry.cores.get_mut(core) {
            *place = Some(Seen {
                id: lun.id,
                state: lun.state,
                identity: lun.identity,
            });
        }
        entry.info = lun;
    }

    /// All exports that can be opened now.
    #[must_use]
    pub fn exports(&self) -> Vec<ExportInfo> {
        let luns = self.luns.read().unwrap_or_else(PoisonError::into_inner);
        let up = luns
            .values()
            .filter(|e| e.settings.export && e.up(0).next().is_some());
        up.map(|e| self.export_info(e)).collect()
    }

    /// The export of a name, with a core that has it, the `next`th if that one does, and what that
    /// core calls it.
    ///
    /// # Errors
    /// If there is none, or its target does not answer.
    pub fn open(&self, name: &str, next: usize) -> Result<Opened, Missing> {
        let luns = self.luns.read().unwrap_or_else(PoisonError::into_inner);
        let named = |e: &&Entry| e.settings.export && e.settings.name == name;
        let Some(entry) = luns.values().find(named) else {
            let expected = self.configured.values().any(|s| s.export && s.name == name);
            return Err(if expected {
                Missing::Down(no_answer(name))
            } else {
                Missing::Unknown
            });
        };
        let Some((
            core,
            Seen {
                id: lun, identity, ..
            },
        )) = entry.up(next).next()
        else {
            return Err(Missing::Down(no_answer(name)));
        };
        Ok(Opened {
            info: self.export_info(entry),
            core,
            lun,
            identity,
        })
    }

    fn export_info(&self, entry: &Entry) -> ExportInfo {
        let Entry { info, settings, .. } = entry;
        let identify = info.identify;
        let flush = identify.is_some_and(|id| id.flush || id.flush_ext);
        let physical = identify.map_or(512, |id| id.physical_sector);
        ExportInfo {
            description: identify.map_or_else(String::new, |id| {
                format!("AoE {} {} {}", info.addr, id.model_str(), id.serial_str())
            }),
            read_only: settings.read_only,
            flush,
            fua: flush,
            trim: identify.is_some_and(|id| id.trim) && !settings.read_only,
            // Zeroes are written out: a TRIM promises nothing about what is read afterwards.
            write_zeroes: !settings.read_only,
            // All connections write to one target, whose FLUSH covers what any of them wrote.
            multi_conn: true,
            min_block: 512,
            preferred_block: physical.clamp(4096, self.max_block.max(4096)),
            max_block: self.max_block,
            ..ExportInfo::new(&settings.name, info.sectors * 512)
        }
    }
}

fn no_answer(name: &str) -> String {
    format!("{name}: its AoE target does not answer")
}
