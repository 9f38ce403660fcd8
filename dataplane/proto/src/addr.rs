//! Who is who on the wire: Ethernet addresses, shelf.slot addresses and tags.

use core::fmt;
use core::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Why a text is no [`Mac`] or no [`ShelfSlot`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// An Ethernet address needs exactly six parts.
    #[error("{0:?} is no MAC address: expected six hexadecimal pairs such as 02:00:00:00:00:01")]
    MacShape(String),
    /// One of the six parts is not two hexadecimal digits.
    #[error("{text:?} is no MAC address: {part:?} is not two hexadecimal digits")]
    MacPart {
        /// The whole text.
        text: String,
        /// The part at fault.
        part: String,
    },
    /// No dot between shelf and slot.
    #[error("{0:?} is no shelf.slot address: expected a form such as e1.1")]
    Shape(String),
    /// The shelf is not a number that fits 16 bits.
    #[error("{text:?} is no shelf.slot address: shelf {part:?} is not a number from 0 to 65535")]
    Shelf {
        /// The whole text.
        text: String,
        /// The part at fault.
        part: String,
    },
    /// The slot is not a number that fits 8 bits.
    #[error("{text:?} is no shelf.slot address: slot {part:?} is not a number from 0 to 255")]
    Slot {
        /// The whole text.
        text: String,
        /// The part at fault.
        part: String,
    },
}

/// An Ethernet address, 6 bytes in wire order.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff: every station.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether it names a group (multicast or broadcast), so never one sender.
    #[inline]
    pub const fn is_group(&self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .ok_or_else(|| AddrError::MacShape(text.into()))?;
            // from_str_radix alone would take a sign: "+1".
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = digits
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or_else(|| AddrError::MacPart {
                    text: text.into(),
                    part: part.into(),
                })?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(AddrError::MacShape(text.into())),
        }
    }
}

/// The address of a LUN: 16-bit shelf ("major") and 8-bit slot ("minor").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShelfSlot {
    /// Shelf, "major" on the wire; 0xffff = every shelf.
    pub shelf: u16,
    /// Slot, "minor" on the wire; 0xff = every slot.
    pub slot: u8,
}

impl ShelfSlot {
    /// Every slot of every shelf, the address of discovery.
    pub const ALL: ShelfSlot = ShelfSlot {
        shelf: 0xffff,
        slot: 0xff,
    };

    /// Whether it names one LUN: neither half is a wildcard.
    #[inline]
    pub const fn is_addressable(&self) -> bool {
        self.shelf != 0xffff && self.slot != 0xff
    }

    /// Whether a request to `self` is meant for the LUN `lun`; each half may be a wildcard.
    #[inline]
    pub const fn covers(&self, lun: ShelfSlot) -> bool {
        (self.shelf == lun.shelf || self.shelf == 0xffff)
            && (self.slot == lun.slot || self.slot == 0xff)
    }
}

impl fmt::Display for ShelfSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}

impl fmt::Debug for ShelfSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ShelfSlot {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let bare = text.strip_prefix('e').unwrap_or(text);
        let (shelf, slot) = bare
            .split_once('.')
            .ok_or_else(|| AddrError::Shape(text.into()))?;
        let shelf = decimal(shelf).ok_or_else(|| AddrError::Shelf {
            text: text.into(),
            part: shelf.into(),
        })?;
        let slot = decimal(slot).ok_or_else(|| AddrError::Slot {
            text: text.into(),
            part: slot.into(),
        })?;
        Ok(ShelfSlot { shelf, slot })
    }
}

/// An unsigned decimal number without the sign that `FromStr` would accept.
fn decimal<T: FromStr>(part: &str) -> Option<T> {
    part.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| part.parse().ok())
        .flatten()
}

/// What ties a response to its request: 32 bits that a target echoes unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tag(pub u32);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mac: Mac = "02:00:00:00:aB:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:00:00:ab:01");
        let lun: ShelfSlot = "e1.2".parse().unwrap();
        assert_eq!(lun, ShelfSlot { shelf: 1, slot: 2 });
        assert_eq!("65535.255".parse(), Ok(ShelfSlot::ALL));
        assert_eq!(lun.to_string(), "e1.2");
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part) in [
            ("e65536.1", "65536"),
            ("e1.256", "256"),
            ("e.1", "\"\""),
            ("e+1.1", "+1"),
        ] {
            let error = text.parse::<ShelfSlot>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!("e11".parse::<ShelfSlot>().is_err());
        for text in [
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:+1",
            "",
            "2:0:0:0:0:1",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn wildcards_cover() {
        let lun = ShelfSlot { shelf: 7, slot: 3 };
        assert!(ShelfSlot::ALL.covers(lun) && lun.covers(lun));
        assert!(
            ShelfSlot {
                shelf: 7,
                slot: 0xff
            }
            .covers(lun)
        );
        assert!(
            ShelfSlot {
                shelf: 0xffff,
                slot: 3
            }
            .covers(lun)
        );
        assert!(
            !ShelfSlot {
                shelf: 0xffff,
                slot: 4
            }
            .covers(lun)
        );
        assert!(
            lun.is_addressable()
                && !ShelfSlot {
                    shelf: 7,
                    slot: 0xff
                }
                .is_addressable()
        );
    }
}
