//! vblade, Debian's target.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Disk;
use super::net::command_in;

pub struct Vblade {
    pub disk: Disk,
    pub file: PathBuf,
    namespace: String,
    interface: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Vblade {
    /// A target that does not run yet; its file is named after the disk.
    pub fn new(namespace: &str, interface: &str, disk: Disk, dir: &Path) -> Self {
        let file = dir.join(format!("{}.img", disk.address()));
        let log = dir.join(format!("{}-{interface}.log", disk.address()));
        let (namespace, interface) = (namespace.to_owned(), interface.to_owned());
        Self {
            disk,
            file,
            namespace,
            interface,
            log,
            child: None,
        }
    }

    /// Makes the file `bytes` long, sparsely.
    pub fn grow(&self, bytes: u64) {
        let open = File::options().create(true).append(true).open(&self.file);
        open.and_then(|file| file.set_len(bytes))
            .expect("a disk image");
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log");
        let mut command = command_in(&self.namespace, "/usr/sbin/vblade");
        command.args(&self.disk.args);
        command.args([self.disk.shelf.to_string(), self.disk.slot.to_string()]);
        command.arg(&self.interface).arg(&self.file);
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = Some(command.spawn().expect("vblade"));
    }

    /// `kill -9`, and its socket is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it runs").id(), name);
    }
}

impl Drop for Vblade {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprint!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Sends a signal by name to a process that the lab started.
pub fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    kill.args([format!("-{name}"), pid.to_string()])
        .stderr(Stdio::null());
    let _ = kill.status();
}
