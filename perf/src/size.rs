//! Sizes as people write them: `4k`, `1G`, `512`.

use std::str::FromStr;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// A size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Size(pub u64);

/// Why a text is no [`Size`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SizeError(String);

impl std::fmt::Display for SizeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} is no size: a number of bytes, or one with K, M, G or T behind it",
            self.0
        )
    }
}

impl std::error::Error for SizeError {}

impl FromStr for Size {
    type Err = SizeError;

    /// A decimal number and at most one of K, M, G, T (powers of 1024, either case), with an
    /// optional `B` or `iB` behind it.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.into());
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let unit = unit.to_ascii_lowercase();
        let shift = match unit
            .strip_suffix("ib")
            .or(unit.strip_suffix('b'))
            .unwrap_or(&unit)
        {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(error()),
        };
        let number: u64 = digits.parse().map_err(|_| error())?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(error)
    }
}

impl Size {
    /// Whole sectors of 512 bytes.
    ///
    /// # Errors
    /// If it is 0 or no multiple of 512; the error says so.
    pub fn sectors(self) -> Result<u64, String> {
        if self.0 == 0 || !self.0.is_multiple_of(SECTOR) {
            return Err(format!(
                "{} bytes are no whole number of 512-byte sectors",
                self.0
            ));
        }
        Ok(self.0 / SECTOR)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fit =
            |&&(shift, _): &&(u32, &str)| self.0 >> shift > 0 && self.0.is_multiple_of(1 << shift);
        match units.iter().find(fit) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4k", 4096),
            ("4K", 4096),
            ("4KiB", 4096),
            ("4kb", 4096),
            ("3M", 3 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in [
            "",
            "k",
            "-1",
            "+1",
            "1.5G",
            "4 k",
            "4kk",
            "1P",
            "99999999999999999999",
            "99999999T",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_whole_sectors_are_sectors() {
        assert_eq!(Size(4096).sectors(), Ok(8));
        assert!(Size(0).sectors().is_err());
        assert!(Size(4095).sectors().is_err());
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(Size(4096).to_string(), "4 KiB");
        assert_eq!(Size(1 << 30).to_string(), "1 GiB");
        assert_eq!(Size(4097).to_string(), "4097 bytes");
    }
}
