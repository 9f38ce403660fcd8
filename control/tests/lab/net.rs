//! A network namespace and a veth pair into it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "aoe-e2e-";

/// Names are unique by process and number, so that test programs do not meet.
pub struct Net {
    pub namespace: String,
    /// Our end of the veth pair.
    pub outer: String,
    /// The end in the namespace that the targets use.
    pub inner: String,
    /// The port of the switch that we are plugged into, where there is a switch.
    switch_port: Option<String>,
}

impl Net {
    /// A wire; with `switch`, a bridge in the middle of it, so that the targets do not feel what
    /// happens to our end (vblade ends when its own interface fails).
    pub fn new(mtu: u32, switch: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let id = std::process::id();
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut net = Self {
            namespace: format!("{PREFIX}{id}-{n}"),
            outer: format!("ao{id}-{n}"),
            inner: format!("ai{id}-{n}"),
            switch_port: None,
        };
        net.make(mtu);
        if switch {
            net.add_switch(mtu);
        }
        net
    }

    fn make(&self, mtu: u32) {
        let Self {
            namespace,
            outer,
            inner,
            ..
        } = self;
        ip(&format!("netns add {namespace}"));
        ip(&format!(
            "link add {outer} mtu {mtu} type veth peer name {inner} mtu {mtu} netns {namespace}"
        ));
        quiet(&[], outer);
        quiet(&["ip", "netns", "exec", namespace], inner);
        ip(&format!("link set {outer} up"));
        ip(&format!("-n {namespace} link set {inner} up"));
    }

    /// The vdev string for aoed.
    pub fn device(&self) -> String {
        let outer = &self.outer;
        format!("net_af_packet0,iface={outer},framesz=9216,blocksz=36864,framecnt=1024")
    }

    fn add_switch(&mut self, mtu: u32) {
        let namespace = &self.namespace;
        let in_it = |line: String| ip(&format!("-n {namespace} {line}"));
        in_it(format!("link add br0 mtu {mtu} type bridge"));
        in_it(format!(
            "link add far0 mtu {mtu} type veth peer name port1 mtu {mtu}"
        ));
        let port0 = std::mem::replace(&mut self.inner, "far0".to_owned());
        for name in ["br0", "far0", "port1"] {
            quiet(&["ip", "netns", "exec", namespace], name);
        }
        for port in [port0.as_str(), "port1"] {
            in_it(format!("link set {port} master br0"));
        }
        for name in ["br0", "far0", "port1"] {
            in_it(format!("link set {name} up"));
        }
        self.switch_port = Some(port0);
    }

    /// Changes the switch's port that we are plugged into, as `ip link set` does.
    pub fn set_switch_port(&self, change: &str) {
        let port = self.switch_port.as_ref().expect("a switch");
        ip(&format!("-n {} link set {port} {change}", self.namespace));
    }

    /// Takes our own end down, or up again.
    pub fn set_outer(&self, up: bool) {
        ip(&format!(
            "link set {} {}",
            self.outer,
            if up { "up" } else { "down" }
        ));
    }

    /// A second MAC in the namespace, on the same wire.
    pub fn add_macvlan(&self, name: &str) {
        let Self {
            namespace, inner, ..
        } = self;
        ip(&format!(
            "-n {namespace} link add {name} link {inner} type macvlan mode bridge"
        ));
        quiet(&["ip", "netns", "exec", namespace], name);
        ip(&format!("-n {namespace} link set {name} up"));
    }

    /// A command that will run in the namespace, and die with the thread that starts it.
    pub fn command(&self, program: &str) -> Command {
        command_in(&self.namespace, program)
    }

    /// The MAC of our end, as `aa:bb:cc:dd:ee:ff`.
    pub fn outer_mac(&self) -> String {
        let path = format!("/sys/class/net/{}/address", self.outer);
        std::fs::read_to_string(path)
            .expect("a MAC")
            .trim()
            .to_owned()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove(&self.namespace);
        // Gone with the namespace as a rule, but that is done behind our back.
        let mut delete = Command::new("ip");
        delete
            .args(["link", "del", &self.outer])
            .stderr(Stdio::null());
        let _ = delete.status();
    }
}

/// A command in a namespace; `ip`, `setpriv` and `taskset` replace themselves by what follows, so
/// the child's id is the program's. CPU 1 is left to the daemon.
pub fn command_in(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL"]);
    command
        .args(["taskset", "-c", "0", program])
        .stdin(Stdio::null());
    command
}

/// Without IPv6 the kernel says nothing of its own accord.
fn quiet(prefix: &[&str], interface: &str) {
    let setting = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
    let words = [prefix, &["sysctl", "-qw", &setting]].concat();
    // No such key where the kernel has no IPv6: just as well.
    let _ = Command::new(words[0])
        .args(&words[1..])
        .stderr(Stdio::null())
        .status();
}

fn ip(line: &str) {
    let output = Command::new("ip")
        .args(line.split(' '))
        .output()
        .expect("ip");
    assert!(
        output.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn remove(namespace: &str) {
    let _ = Command::new("ip")
        .args(["netns", "del", namespace])
        .status();
}

/// Removes the namespaces of test programs that are no more; whoever was in them died with those.
fn sweep() {
    let listed = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .expect("ip");
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let id = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if id.is_some_and(|id| !std::path::Path::new(&format!("/proc/{id}")).exists()) {
            remove(name);
        }
    }
}
