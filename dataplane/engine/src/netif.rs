//! What the kernel says of a network interface in this process's network namespace.

use std::ffi::CString;

/// The MTU of an interface in bytes, `None` if there is no such interface. sysfs would show the
/// namespace that it was mounted in, so the kernel is asked directly.
#[must_use]
pub fn mtu(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: plain system calls on a socket of our own, which is closed again; the request is
    // zeroed and the name fits it with its terminating zero.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= request.ifr_name.len() {
            return None;
        }
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return None;
        }
        let rc = libc::ioctl(socket, libc::SIOCGIFMTU, &raw mut request);
        libc::close(socket);
        if rc < 0 {
            None
        } else {
            u32::try_from(request.ifr_ifru.ifru_mtu).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn loopback_has_an_mtu_and_nonsense_has_none() {
        assert!(super::mtu("lo").is_some_and(|mtu| mtu >= 1500));
        assert_eq!(super::mtu("no-such-if0"), None);
        assert_eq!(super::mtu("a-name-that-is-much-too-long"), None);
        assert_eq!(super::mtu(""), None);
    }
}
