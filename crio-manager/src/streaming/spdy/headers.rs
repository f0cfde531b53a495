//! Header blocks: name and value pairs in one zlib stream per direction and connection, with a preset dictionary.
//!
//! Source: SPDY Protocol Draft 3.1, section 2.6.10. `dictionary.bin` is the dictionary listed there.

use super::Malformed;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::collections::BTreeMap;

/// The largest header block once inflated, in bytes. What is inflated beyond is not kept.
pub const BLOCK_BYTES: usize = 16 * 1024;

const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");

/// Names are lower case.
pub type Headers = BTreeMap<String, String>;

/// Inflates the header blocks of one direction, in order.
pub struct BlockReader(Decompress);

impl BlockReader {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Errors: not a zlib stream, larger than `BLOCK_BYTES`, or not a list of pairs. The connection is of no use then.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, Malformed> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let bad = Malformed("a header block does not inflate");
        let mut plain = Vec::with_capacity(BLOCK_BYTES + 1);
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let consumed = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            block = block.get(consumed..).ok_or(bad)?;
            match outcome {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(Malformed("the header stream was ended")),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| bad)?;
                    continue;
                }
                Err(_) => return Err(bad),
            }
            if plain.len() > BLOCK_BYTES {
                return Err(Malformed("a header block is too large"));
            }
            if block.is_empty() {
                return Ok(plain);
            }
            if consumed == 0 && self.0.total_out() == written {
                return Err(bad);
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, Malformed> {
    let bad = Malformed("a header block is not a list of pairs");
    let number = |block: &mut &[u8]| -> Result<usize, Malformed> {
        let (four, rest) = block.split_first_chunk::<4>().ok_or(bad)?;
        *block = rest;
        Ok(u32::from_be_bytes(*four) as usize)
    };
    let text = |block: &mut &[u8]| -> Result<String, Malformed> {
        let length = number(block)?;
        let (text, rest) = block.split_at_checked(length).ok_or(bad)?;
        *block = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    };
    let (count, rest) = block.split_first_chunk::<4>().ok_or(bad)?;
    block = rest;
    let mut headers = Headers::new();
    // Each pair takes at least eight bytes of the block, so a count that lies ends soon.
    for _ in 0..u32::from_be_bytes(*count) {
        let name = text(&mut block)?.to_ascii_lowercase();
        headers.insert(name, text(&mut block)?);
    }
    if block.is_empty() { Ok(headers) } else { Err(bad) }
}

/// Deflates the header blocks that we send.
pub struct BlockWriter(Compress);

impl BlockWriter {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // Fails only once something was compressed.
        let _ = compress.set_dictionary(DICTIONARY);
        Self(compress)
    }

    /// The block with these headers.
    pub fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        let push_number = |plain: &mut Vec<u8>, number: usize| {
            plain.extend_from_slice(&u32::try_from(number).unwrap_or(0).to_be_bytes());
        };
        push_number(&mut plain, headers.len());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            push_number(&mut plain, text.len());
            plain.extend_from_slice(text.as_bytes());
        }
        // Deflate adds a few bytes to what it cannot shorten.
        let mut block = Vec::with_capacity(plain.len() + 64);
        let _ = self.0.compress_vec(&plain, &mut block, FlushCompress::Sync);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        assert_eq!(DICTIONARY.len(), 1423);
        let digest: String = Sha256::digest(DICTIONARY)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            digest,
            "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"
        );
    }

    #[test]
    fn blocks_come_back_in_order_over_one_stream() {
        let (mut writer, mut reader) = (BlockWriter::new(), BlockReader::new());
        for round in 0..50 {
            let port = round.to_string();
            let block = writer.write(&[("Streamtype", "data"), ("port", &port)]);
            let headers = reader.read(&block).unwrap();
            assert_eq!(headers["streamtype"], "data");
            assert_eq!(headers["port"], port);
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_large() {
        let value = "a".repeat(64 << 20);
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(DICTIONARY).unwrap();
        let mut plain = 1_u32.to_be_bytes().to_vec();
        plain.extend_from_slice(&1_u32.to_be_bytes());
        plain.push(b'n');
        plain.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        plain.extend_from_slice(value.as_bytes());
        let mut block = Vec::with_capacity(1 << 20);
        compress.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        assert!(block.len() < 1 << 18);
        assert_eq!(
            BlockReader::new().read(&block),
            Err(Malformed("a header block is too large"))
        );
    }

    proptest! {
        #[test]
        fn no_block_makes_the_reader_panic(block in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&block);
            let _ = BlockReader::new().read(&block);
        }

        #[test]
        fn a_block_cut_anywhere_is_an_error_or_whole(cut in 0_usize..80) {
            let block = BlockWriter::new().write(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]);
            let whole = BlockReader::new().read(&block).unwrap();
            let cut = cut.min(block.len());
            // Its last bytes are only the mark of a flush.
            prop_assert!(BlockReader::new().read(&block[..cut]).map_or(true, |read| read == whole));
        }
    }
}
