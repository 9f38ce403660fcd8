//! What `--lun` of `aoe-target` says: `e1.0=ram:1G,trim`.

use crate::size::Size;
use aoe_proto::ShelfSlot;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a LUN's sectors are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backing {
    /// In memory.
    Ram(Size),
    /// In a file or a block device.
    File {
        /// Its path.
        path: PathBuf,
        /// Make it, or extend it, to this size.
        size: Option<Size>,
    },
}

/// One `--lun`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LunSpec {
    /// Its address.
    pub addr: ShelfSlot,
    /// Its sectors.
    pub backing: Backing,
    /// Writes are refused.
    pub read_only: bool,
    /// TRIM is offered.
    pub trim: bool,
}

const SHAPE: &str =
    "expected SHELF.SLOT=ram:SIZE or SHELF.SLOT=file:PATH, then any of `,ro` `,trim` `,size=SIZE`";

impl FromStr for LunSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, rest) = text.split_once('=').ok_or_else(|| SHAPE.to_owned())?;
        let addr: ShelfSlot = addr.parse().map_err(|e| format!("{e}"))?;
        if !addr.is_addressable() {
            return Err(format!("{addr} is a wildcard, not a LUN's address"));
        }
        let mut parts = rest.split(',');
        let (kind, what) = parts
            .next()
            .and_then(|p| p.split_once(':'))
            .ok_or_else(|| SHAPE.to_owned())?;
        let (mut read_only, mut trim, mut size) = (false, false, None);
        for option in parts {
            match option.split_once('=') {
                None if option == "ro" => read_only = true,
                None if option == "trim" => trim = true,
                Some(("size", value)) if kind == "file" => size = Some(whole(value)?),
                _ => return Err(format!("{option:?} is no option of {kind:?}; {SHAPE}")),
            }
        }
        let backing = match kind {
            "ram" => Backing::Ram(whole(what)?),
            "file" if what.is_empty() => return Err("the file's path is empty".into()),
            "file" => Backing::File {
                path: what.into(),
                size,
            },
            other => return Err(format!("{other:?} is neither `ram` nor `file`; {SHAPE}")),
        };
        Ok(Self {
            addr,
            backing,
            read_only,
            trim,
        })
    }
}

/// A size of whole sectors.
fn whole(text: &str) -> Result<Size, String> {
    let size: Size = text.parse().map_err(|e| format!("{e}"))?;
    size.sectors()?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let spec: LunSpec = "e1.0=ram:1G".parse().unwrap();
        assert_eq!(spec.addr, ShelfSlot { shelf: 1, slot: 0 });
        assert_eq!(spec.backing, Backing::Ram(Size(1 << 30)));
        assert!(!spec.read_only && !spec.trim);
        let spec: LunSpec = "7.3=file:/tmp/a=b:c,ro,trim,size=8K".parse().unwrap();
        let path = PathBuf::from("/tmp/a=b:c");
        assert_eq!(
            spec.backing,
            Backing::File {
                path,
                size: Some(Size(8192))
            }
        );
        assert!(spec.read_only && spec.trim);
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, part) in [
            ("e1.0", "SHELF.SLOT=ram:SIZE"),
            ("e1.0=ram", "SHELF.SLOT=ram:SIZE"),
            ("e1.256=ram:1G", "256"),
            ("e65535.1=ram:1G", "wildcard"),
            ("e1.0=ram:1X", "1X"),
            ("e1.0=ram:1000", "512"),
            ("e1.0=ram:0", "0 bytes"),
            ("e1.0=tape:1G", "tape"),
            ("e1.0=ram:1G,fast", "fast"),
            ("e1.0=ram:1G,size=1G", "size"),
            ("e1.0=file:", "empty"),
        ] {
            let error = text.parse::<LunSpec>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
