//! The list of MACs behind masks and reservations.

use crate::addr::Mac;

/// Up to 255 MACs, as many as the 8-bit count of a frame can say.
#[derive(Debug, Clone)]
pub struct MacList {
    macs: [Mac; MacList::CAPACITY],
    len: usize,
}

impl Default for MacList {
    fn default() -> Self {
        MacList {
            macs: [Mac::default(); MacList::CAPACITY],
            len: 0,
        }
    }
}

impl MacList {
    /// Most MACs that it holds.
    pub const CAPACITY: usize = 255;

    /// Its MACs, in the order in which they were added.
    #[inline]
    pub fn as_slice(&self) -> &[Mac] {
        self.macs.get(..self.len).unwrap_or_default()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `mac` is on it.
    #[inline]
    pub fn contains(&self, mac: Mac) -> bool {
        self.as_slice().contains(&mac)
    }

    /// Adds `mac` unless it is there already; `false` if there is no room.
    pub fn add(&mut self, mac: Mac) -> bool {
        if self.contains(mac) {
            return true;
        }
        let Some(free) = self.macs.get_mut(self.len) else {
            return false;
        };
        *free = mac;
        self.len += 1;
        true
    }

    /// Takes `mac` off, if it is there.
    pub fn remove(&mut self, mac: Mac) {
        let used = self.macs.get_mut(..self.len).unwrap_or_default();
        if let Some(at) = used.iter().position(|m| *m == mac) {
            used.get_mut(at..).unwrap_or_default().rotate_left(1);
            self.len -= 1;
        }
    }

    /// Holds just these from now on, each once.
    pub fn replace(&mut self, macs: &[Mac]) {
        self.len = 0;
        for mac in macs {
            self.add(*mac);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_to_the_brim_and_empties() {
        let mac = |i: u16| Mac([2, 0, 0, 0, (i >> 8) as u8, i as u8]);
        let mut list = MacList::default();
        assert!((0..255).all(|i| list.add(mac(i))));
        assert!(list.add(mac(7)), "it is there already");
        assert!(!list.add(mac(255)));
        list.remove(mac(0));
        list.remove(mac(254));
        list.remove(mac(999));
        assert_eq!(list.as_slice().len(), 253);
        assert_eq!(list.as_slice().first(), Some(&mac(1)));
        assert!(!list.contains(mac(254)));
        list.replace(&[mac(1), mac(1)]);
        assert_eq!(list.as_slice(), [mac(1)]);
    }
}
