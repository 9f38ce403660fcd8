//! `aoed` from its configuration to its end: EAL, devices, cores, sockets, shutdown.

use crate::backend::Luns;
use crate::buffers::Buffers;
use crate::config::Config;
use crate::core::{self, Command, Core, Link};
use crate::nbd;
use crate::registry::Registry;
use crate::rpc::Service;
use crate::views::Appliance;
use anyhow::{Context, bail};
use aoe_engine::dpdk::{Device, DpdkPort, Eal, IovaMap};
use aoe_engine::{Engine, Handover};
use aoe_proto::initiator::Event;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long clients may finish what is in flight when the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(5);
/// After this time without any LUN, the log says so.
const SILENCE: Duration = Duration::from_secs(5);

/// Runs the appliance until SIGTERM or SIGINT.
///
/// # Errors
/// If anything cannot be started; the error names the key, device or path.
pub fn run(config: &Config) -> anyhow::Result<()> {
    // The sockets first: a second daemon must not get as far as the ports.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _in_runtime = runtime.enter();
    let sockets = runtime.block_on(Sockets::bind(config))?;
    if config.engine.cores.contains(&config.eal.main_cpu) {
        tracing::warn!(
            cpu = config.eal.main_cpu,
            "this CPU polls (engine.cores) and does everything else (eal.main_cpu): both are slow"
        );
    }
    let eal = Eal::start(&config.eal()).context("eal")?;
    tracing::info!(dpdk = %eal.version(), huge_pages = eal.has_hugepages(), "DPDK is up");
    let iova = IovaMap::new(eal);
    // Before the ports: they take over which memory devices may read.
    let (bytes, block) = (
        (config.pools.nbd_mb as usize) << 20,
        config.nbd.max_block_kb as usize * 1024,
    );
    let buffers = Buffers::new(eal, bytes, block, &iova).with_context(|| {
        let (nbd, all) = (config.pools.nbd_mb, config.eal.memory_mb);
        format!("pools.nbd_mb = {nbd} MiB do not fit eal.memory_mb = {all}")
    })?;
    let (devices, engines) = engines(config, eal, &iova)?;
    let registry = Arc::new(Registry::new(config));
    let links: Vec<_> = engines
        .iter()
        .map(|_| Link::new(config.engine.luns))
        .collect();

    let threads = start(config, eal, engines, &registry, &links)?;
    let nbd_socket = sockets
        .nbd
        .is_some()
        .then(|| config.nbd.socket.to_string_lossy().into_owned());
    let appliance = Appliance {
        dpdk: eal.version(),
        huge_pages: eal.has_hugepages(),
        devices,
        nbd_socket,
    };
    let luns = Luns::new(
        registry.clone(),
        links.clone(),
        buffers,
        config.nbd.max_in_flight,
    );
    let service = Service {
        links: links.clone(),
        registry: registry.clone(),
        appliance,
    };
    runtime.block_on(serve(config, sockets, luns, service, &links, &registry))?;
    for thread in threads {
        if thread.join().is_err() {
            bail!("a polling core has panicked");
        }
    }
    tracing::info!("stopped");
    Ok(())
}

type Devices = Vec<(String, Device)>;

/// Opens all devices and gives each core an engine with its queue pair of each.
fn engines(
    config: &Config,
    eal: Eal,
    iova: &IovaMap,
) -> anyhow::Result<(Devices, Vec<Engine<DpdkPort>>)> {
    let mut engines = Vec::new();
    for core in 0..config.engine.cores.len() {
        let seed = RandomState::new().build_hasher().finish();
        let drain_ns = config.engine.drain_timeout_ms * 1_000_000;
        engines.push(Engine::new(config.initiator(core, seed), drain_ns).context("engine")?);
    }
    let mut devices = Vec::new();
    for port in &config.port {
        let (device, queues) = Device::open(eal, &config.device(port), iova)?;
        tracing::info!(
            device = %port.device, driver = %device.driver, mac = %device.info.mac,
            mtu = device.info.mtu, zero_copy = ?queues.first().map(|q| q.driver().zero_copy),
            "port is up"
        );
        let handover = Arc::new(Handover::new(engines.len() as u32));
        for (engine, queue) in engines.iter_mut().zip(queues) {
            let shared = config.engine.cores.len() > 1;
            engine.add_port(queue, shared.then(|| handover.clone()))?;
        }
        devices.push((port.device.clone(), device));
    }
    Ok((devices, engines))
}

/// Starts a pinned thread for each core.
fn start(
    config: &Config,
    eal: Eal,
    engines: Vec<Engine<DpdkPort>>,
    registry: &Registry,
    links: &[Arc<Link>],
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let luns = registry.configured();
    let mut threads = Vec::new();
    for ((mut engine, link), &cpu) in engines.into_iter().zip(links).zip(&config.engine.cores) {
        if !core::add_luns(&mut engine, &luns) {
            bail!(
                "engine.luns: there is no room for all {} configured LUNs",
                luns.len()
            );
        }
        let link = link.clone();
        let thread = std::thread::Builder::new().name(format!("aoe-core-{cpu}"));
        threads.push(thread.spawn(move || {
            // A dead core would leave its clients waiting for ever: better no daemon at all.
            let guard = ExitOnPanic;
            if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
                tracing::warn!(cpu, "this core could not be pinned (engine.cores)");
            }
            if let Err(e) = eal.register_thread() {
                tracing::warn!(cpu, %e, "this core has no mempool caches");
            }
            Core::new(engine, link).run();
            std::mem::forget(guard);
        })?);
    }
    Ok(threads)
}

struct ExitOnPanic;

impl Drop for ExitOnPanic {
    fn drop(&mut self) {
        tracing::error!("a polling core has panicked; the daemon ends");
        std::process::exit(70);
    }
}

struct Sockets {
    nbd: Option<(tokio::net::UnixListener, nbd::SocketFile)>,
    control: (tokio::net::UnixListener, nbd::SocketFile),
}

impl Sockets {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let nbd = if config.nbd.socket.as_os_str().is_empty() {
            None
        } else {
            make_folder(&config.nbd.socket).context("nbd.socket")?;
            Some(
                nbd::bind(&config.nbd.socket, config.nbd_mode()?)
                    .await
                    .context("nbd.socket")?,
            )
        };
        make_folder(&config.control.socket).context("control.socket")?;
        let control = nbd::bind(&config.control.socket, nbd::DEFAULT_SOCKET_MODE)
            .await
            .context("control.socket")?;
        Ok(Self { nbd, control })
    }
}

fn make_folder(socket: &Path) -> anyhow::Result<()> {
    match socket.parent() {
        // Only the usual place is made: anywhere else, a missing folder is a typing error.
        Some(folder) if folder.parent() == Some(Path::new("/run")) && !folder.exists() => {
            std::fs::create_dir(folder)
                .with_context(|| format!("the folder {} cannot be made", folder.display()))
        }
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            bail!("there is no folder {}", folder.display())
        }
        _ => Ok(()),
    }
}

/// Everything that does not poll, until a signal comes.
async fn serve(
    config: &Config,
    sockets: Sockets,
    luns: Luns,
    service: Service,
    links: &[Arc<Link>],
    registry: &Arc<Registry>,
) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    for (core, link) in links.iter().enumerate() {
        tokio::spawn(watch_core(
            core,
            links.to_vec(),
            link.clone(),
            registry.clone(),
        ));
    }
    tokio::spawn(say_if_silent(registry.clone()));
    let (control, _control_file) = sockets.control;
    tokio::spawn(Arc::new(service).serve(control, stopped.clone()));
    let mut exports = None;
    let mut _nbd_file = None;
    if let Some((listener, file)) = sockets.nbd {
        let options = nbd::Options {
            max_in_flight: config.nbd.max_in_flight,
            max_connections: config.nbd.max_connections,
            ..nbd::Options::default()
        };
        exports = Some(tokio::spawn(nbd::serve(
            listener,
            Arc::new(luns),
            options,
            stopped,
        )));
        _nbd_file = Some(file);
    }
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tracing::info!(control = %config.control.socket.display(), "ready");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: stopping"),
        _ = int.recv() => tracing::info!("SIGINT: stopping"),
    }
    let _ = stop.send(true);
    if let Some(mut exports) = exports
        && tokio::time::timeout(GRACE, &mut exports).await.is_err()
    {
        tracing::warn!("I/O is still in flight; it fails now");
        stop_cores(links);
        let _ = tokio::time::timeout(GRACE, &mut exports).await;
    }
    stop_cores(links);
    Ok(())
}

fn stop_cores(links: &[Arc<Link>]) {
    for link in links {
        link.stop.store(true, Ordering::Relaxed);
    }
}

/// Passes a core's events on to the registry, and a LUN that one core found to the other cores.
async fn watch_core(core: usize, links: Vec<Arc<Link>>, link: Arc<Link>, registry: Arc<Registry>) {
    loop {
        while let Some(event) = link.events.pop() {
            if let Event::Up { .. } = event.event {
                for (other, link) in links.iter().enumerate() {
                    while other != core
                        && !link.stopped.load(Ordering::Acquire)
                        && link.commands.push(Command::Find(event.lun.addr)).is_err()
                    {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            registry.event(core, event);
        }
        link.event_bell.notified().await;
    }
}

/// No target at all is most often a cable, a VLAN or an interface that is down.
async fn say_if_silent(registry: Arc<Registry>) {
    tokio::time::sleep(SILENCE).await;
    if registry.is_empty() {
        tracing::warn!(
            "no AoE target has answered yet; is the interface up, in the right VLAN, and its MTU \
             no larger than the switch's? (`aoectl stat` shows what comes in)"
        );
    }
    for addr in registry.missing() {
        tracing::warn!(lun = %addr, "no target answers for this configured LUN");
    }
}
