//! A tar archive as a sequence of entries: ustar, PAX and GNU long names, every length bounded.
//!
//! The tar crate lays out the header block; the walk from block to block is here, because an archive from outside decides
//! the size of every extension and the crate's own walk would read each of them into memory whole.

use std::io::{self, Read};
use std::sync::Arc;

use tar::{EntryType, Header};

use super::compression::TooMuch;
use super::unpack::{Limits, UnpackError};

const BLOCK: usize = 512;
/// More extension headers than this before one entry are an attack on time.
const MAX_EXTENSIONS_PER_ENTRY: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mtime {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What the archive says of one file. Nothing in it is checked beyond its form.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Mtime>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

pub struct Entries<'l, R> {
    source: R,
    limits: &'l Limits,
    position: u64,
    /// Of the current entry: data not read yet, and the padding behind it.
    data_left: u64,
    padding: u64,
    count: u64,
}

impl<'l, R: Read> Entries<'l, R> {
    pub fn new(source: R, limits: &'l Limits) -> Self {
        Self {
            source,
            limits,
            position: 0,
            data_left: 0,
            padding: 0,
            count: 0,
        }
    }

    /// The next entry, or `None` at the end of the archive. What was not read of the entry before is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        for _ in 0..=MAX_EXTENSIONS_PER_ENTRY {
            let Some(header) = self.next_header()? else {
                return Ok(None);
            };
            let size = number(&header.as_old().size).ok_or_else(|| bad_header("size"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.extension(size, self.limits.extension_bytes)?;
                    read_pax(&records, &mut extensions)?;
                }
                EntryType::XGlobalHeader => {
                    self.extension(size, self.limits.extension_bytes)?; // names nothing that a layer needs
                }
                EntryType::GNULongName => extensions.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size)?),
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
        Err(UnpackError::Limit {
            what: "extension headers of one entry",
            limit: MAX_EXTENSIONS_PER_ENTRY as u64,
        })
    }

    /// Where in the archive the data of the current entry is read next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Reads data of the current entry; 0 at its end. An archive that ends in the middle of it is truncated.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let wanted = usize::try_from(self.data_left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(part) = buffer.get_mut(..wanted).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let count = self.source.read(part).map_err(source_error)?;
        if count == 0 {
            return Err(UnpackError::Truncated);
        }
        self.data_left -= count as u64;
        self.position += count as u64;
        Ok(count)
    }

    /// Reads what follows the end of the archive, so that the whole of it has passed.
    pub fn drain(mut self) -> Result<(), UnpackError> {
        io::copy(&mut self.source, &mut io::sink()).map_err(source_error)?;
        Ok(())
    }

    fn entry(&mut self, header: &Header, kind: EntryType, size: u64, x: Extensions) -> Result<Entry, UnpackError> {
        self.count += 1;
        if self.count > self.limits.entries {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        let path = x.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let name = || String::from_utf8_lossy(&path).into_owned();
        if path.len() > self.limits.path_bytes {
            return Err(UnpackError::Limit {
                what: "bytes in a path",
                limit: self.limits.path_bytes as u64,
            });
        }
        if x.sparse || kind == EntryType::GNUSparse {
            return Err(UnpackError::Unsupported {
                entry: name(),
                what: "sparse files",
            });
        }
        // Old archives mark a directory by a slash at the end of a file's name.
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Fifo => Kind::Fifo,
            _ => {
                return Err(UnpackError::Unsupported {
                    entry: name(),
                    what: "entries of this type",
                });
            }
        };
        let link = x
            .link
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        if link.len() > self.limits.path_bytes {
            return Err(UnpackError::Limit {
                what: "bytes in a link",
                limit: self.limits.path_bytes as u64,
            });
        }
        let invalid = |reason| UnpackError::InvalidEntry { entry: name(), reason };
        let old = header.as_old();
        let id = |pax: Option<u64>, field: &[u8]| {
            let number = pax
                .or_else(|| number(field))
                .ok_or_else(|| invalid("owner is not a number"))?;
            // The highest id means "leave as it is" to the kernel.
            u32::try_from(number)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| invalid("owner is out of range"))
        };
        let mtime = match x.mtime {
            Some(mtime) => mtime,
            // A negative time is stored as two's complement.
            None => Mtime {
                seconds: number(&old.mtime)
                    .ok_or_else(|| invalid("time is not a number"))?
                    .cast_signed(),
                nanoseconds: 0,
            },
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                let major = header
                    .device_major()
                    .ok()
                    .flatten()
                    .ok_or_else(|| invalid("device has no number"))?;
                let minor = header
                    .device_minor()
                    .ok()
                    .flatten()
                    .ok_or_else(|| invalid("device has no number"))?;
                (major, minor)
            }
            _ => (0, 0),
        };
        // Only a file has data; readers agree to ignore the size of anything else.
        let size = if kind == Kind::File { x.size.unwrap_or(size) } else { 0 };
        self.begin_data(size)?;
        Ok(Entry {
            mode: number(&old.mode).ok_or_else(|| invalid("mode is not a number"))? as u32 & 0o7777,
            uid: id(x.uid, &old.uid)?,
            gid: id(x.gid, &old.gid)?,
            path,
            link,
            kind,
            size,
            mtime,
            device,
            xattrs: x.xattrs,
        })
    }

    fn begin_data(&mut self, size: u64) -> Result<(), UnpackError> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| bad_header("size"))?;
        self.data_left = size;
        self.padding = padded - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        let rest = self.data_left + self.padding;
        let skipped = io::copy(&mut self.source.by_ref().take(rest), &mut io::sink()).map_err(source_error)?;
        self.position += skipped;
        // Padding missing after the last entry is common in archives made by hand and hides nothing.
        if skipped < self.data_left {
            return Err(UnpackError::Truncated);
        }
        self.data_left = 0;
        self.padding = 0;
        Ok(())
    }

    /// The next header block; `None` at the end: a zero block, or no block at all.
    fn next_header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest).map_err(source_error)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(UnpackError::Truncated),
                count => filled += count,
            }
        }
        self.position += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stored = number(&header.as_old().cksum).ok_or_else(|| bad_header("checksum"))?;
        let (before, rest) = header.as_bytes().split_at(148);
        let (_, after) = rest.split_at(8);
        // The checksum's own eight bytes count as spaces.
        let actual = 8 * u64::from(b' ') + before.iter().chain(after).map(|byte| u64::from(*byte)).sum::<u64>();
        if stored != actual {
            return Err(bad_header("checksum"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, UnpackError> {
        if size > limit {
            return Err(UnpackError::Limit {
                what: "bytes in an extension header",
                limit,
            });
        }
        self.begin_data(size)?;
        let mut content = Vec::new();
        self.source
            .by_ref()
            .take(size)
            .read_to_end(&mut content)
            .map_err(source_error)?;
        if (content.len() as u64) < size {
            return Err(UnpackError::Truncated);
        }
        self.position += size;
        self.data_left = 0;
        self.skip_rest()?;
        Ok(content)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut name = self.extension(size, self.limits.path_bytes as u64 + 1)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }
}

/// Sorts an error of the decompressed source into what it says about the archive.
pub fn source_error(error: io::Error) -> UnpackError {
    if let Some(too_much) = error.get_ref().and_then(|inner| inner.downcast_ref::<TooMuch>()) {
        return UnpackError::Limit {
            what: "bytes in all",
            limit: too_much.limit,
        };
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => UnpackError::Truncated,
        _ => UnpackError::Source(Arc::new(error)),
    }
}

fn bad_header(field: &'static str) -> UnpackError {
    UnpackError::NotATar { field }
}

/// A number of a header: octal text, or big-endian binary with the top bit set. An empty field is 0.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement over the whole field: the bytes above the last eight only repeat the sign.
        let negative = first & 0x40 != 0;
        let start = if negative { u64::MAX } else { u64::from(first & 0x7f) };
        return rest.iter().try_fold(start, |number, byte| {
            let lossless = negative || number >> 56 == 0;
            lossless.then_some((number << 8) | u64::from(*byte))
        });
    }
    let digits = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads records of the form `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record. Values may hold any byte.
fn read_pax(mut records: &[u8], into: &mut Extensions) -> Result<(), UnpackError> {
    let malformed = || bad_header("PAX records");
    // Some writers pad the records with NULs.
    while !records.is_empty() && records.iter().any(|byte| *byte != 0) {
        let space = records
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or_else(malformed)?;
        let (length, _) = records.split_at(space);
        let length = decimal(length)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(malformed)?;
        let (record, rest) = records.split_at_checked(length).ok_or_else(malformed)?;
        let record = record
            .get(space + 1..)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or_else(malformed)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        let (key, value) = record.split_at(equals);
        let value = value.strip_prefix(b"=").unwrap_or_default();
        match key {
            b"path" => into.path = Some(value.to_vec()),
            b"linkpath" => into.link = Some(value.to_vec()),
            b"size" => into.size = Some(decimal(value).ok_or_else(malformed)?),
            b"uid" => into.uid = Some(decimal(value).ok_or_else(malformed)?),
            b"gid" => into.gid = Some(decimal(value).ok_or_else(malformed)?),
            b"mtime" => into.mtime = Some(pax_time(value).ok_or_else(malformed)?),
            key if key.starts_with(b"GNU.sparse.") => into.sparse = true,
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    into.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        records = rest;
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional sign and fraction.
fn pax_time(text: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match whole.starts_with('-') && nanoseconds > 0 {
        true => Mtime {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
        false => Mtime { seconds, nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b" 644 \0\0\0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"12x"), None);
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0xff; 12]).map(u64::cast_signed), Some(-1));
        assert_eq!(
            number(&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]),
            None,
            "too large"
        );
    }

    #[test]
    fn pax_values_may_hold_newlines_and_times_a_fraction() {
        let mut x = Extensions::default();
        read_pax(b"29 SCHILY.xattr.user.a=b\nc=d\n20 mtime=1.25000000\n", &mut x).unwrap();
        assert_eq!(x.xattrs, [(b"user.a".to_vec(), b"b\nc=d".to_vec())]);
        assert_eq!(
            x.mtime,
            Some(Mtime {
                seconds: 1,
                nanoseconds: 250_000_000
            })
        );
        assert_eq!(
            pax_time(b"-1.5"),
            Some(Mtime {
                seconds: -2,
                nanoseconds: 500_000_000
            })
        );
        assert!(read_pax(b"99 path=x\n", &mut x).is_err());
        assert!(read_pax(b"0 path=x\n", &mut x).is_err());
        assert!(read_pax(b"18446744073709551615 path=x\n", &mut x).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let limits = Limits::default();
            let mut entries = Entries::new(&bytes[..], &limits);
            while let Ok(Some(_)) = entries.next_entry() {}
            let _ = read_pax(&bytes, &mut Extensions::default());
        }

        #[test]
        fn any_field_of_a_good_header_may_be_damaged(at in 0_usize..512, byte: u8) {
            let mut header = Header::new_gnu();
            header.set_path("a/b").unwrap();
            header.set_size(3);
            header.set_cksum();
            header.as_mut_bytes()[at] = byte;
            header.set_cksum();
            let archive = [&header.as_bytes()[..], b"abc", &[0; 509], &[0; 1024]].concat();
            let limits = Limits::default();
            let mut entries = Entries::new(&archive[..], &limits);
            while let Ok(Some(_)) = entries.next_entry() {}
        }
    }
}
