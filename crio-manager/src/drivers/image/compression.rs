//! From the bytes of a blob to the bytes of a tar: which compression it is, and reading through it within limits.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

/// The largest zstd window that is accepted, as a power of two: what `zstd --long` makes, and the most memory a layer costs.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// What the first bytes of a blob say. Tools are known to name one compression and to use another.
    pub fn of_first_bytes(bytes: &[u8]) -> Self {
        if bytes.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if bytes.starts_with(&ZSTD_MAGIC) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Reads `blob` uncompressed, whichever compression its first bytes show.
pub fn uncompressed<'a>(mut blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut first = Vec::with_capacity(ZSTD_MAGIC.len());
    blob.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut first)?;
    let compression = Compression::of_first_bytes(&first);
    let whole = io::Cursor::new(first).chain(blob);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 17, whole))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// More bytes came out of a blob than allowed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("more than {limit} bytes")]
pub struct TooMuch {
    pub limit: u64,
}

/// A reader that fails with [`TooMuch`] where [`Read::take`] would end silently.
pub struct LimitedReader<R> {
    source: R,
    limit: u64,
    left: u64,
}

impl<R: Read> LimitedReader<R> {
    pub fn new(source: R, limit: u64) -> Self {
        Self {
            source,
            limit,
            left: limit,
        }
    }
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(TooMuch { limit: self.limit }))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn each_compression_is_recognised_and_read() {
        let text = b"the same text".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let two_members = [gzip.clone(), gzip.clone()].concat();
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        for (blob, times) in [
            (text.clone(), 1),
            (gzip, 1),
            (two_members, 2),
            (zstd, 1),
            (Vec::new(), 0),
        ] {
            let mut read = Vec::new();
            uncompressed(&blob[..]).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, text.repeat(times));
        }
    }

    #[test]
    fn a_limit_is_an_error_and_not_an_end() {
        let mut read = Vec::new();
        LimitedReader::new(&b"12345"[..], 5).read_to_end(&mut read).unwrap();
        let error = LimitedReader::new(&b"123456"[..], 5)
            .read_to_end(&mut read)
            .unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<TooMuch>()));
    }
}
