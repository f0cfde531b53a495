//! As much of JSON as the monitor's messages and records need.

/// Reads the one shape of JSON that travels here: an object of strings, numbers and words.
pub(crate) struct JsonReader<'a> {
    rest: &'a [u8],
}

/// Bytes that are not of this shape.
pub(crate) struct NotJson;

pub(crate) type JsonResult<T> = Result<T, NotJson>;

impl<'a> JsonReader<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> JsonReader<'a> {
        JsonReader { rest }
    }

    pub(crate) fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> JsonResult<()>) -> JsonResult<()> {
        self.expect(b'{')?;
        if !self.accept(b'}') {
            loop {
                let key = self.string()?;
                self.expect(b':')?;
                member(self, &key)?;
                if self.accept(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.skip_space();
        if self.rest.is_empty() { Ok(()) } else { Err(NotJson) }
    }

    pub(crate) fn integer(&mut self) -> JsonResult<i64> {
        self.optional_integer()?.ok_or(NotJson)
    }

    /// A number, or `null`.
    pub(crate) fn optional_integer(&mut self) -> JsonResult<Option<i64>> {
        match self.word()? {
            b"null" => Ok(None),
            word => {
                let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
                number.map(Some).ok_or(NotJson)
            }
        }
    }

    pub(crate) fn boolean(&mut self) -> JsonResult<bool> {
        match self.word()? {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(NotJson),
        }
    }

    pub(crate) fn skip_scalar(&mut self) -> JsonResult<()> {
        self.skip_space();
        if self.rest.first() == Some(&b'"') {
            self.string().map(drop)
        } else {
            self.word().map(drop)
        }
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> JsonResult<&[u8]> {
        self.skip_space();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        let end = self
            .rest
            .iter()
            .position(|byte| !is_word(byte))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).ok_or(NotJson)?;
        self.rest = rest;
        if word.is_empty() { Err(NotJson) } else { Ok(word) }
    }

    pub(crate) fn string(&mut self) -> JsonResult<String> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Ok(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => {
                    let character = self.escape()?;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                byte => text.push(byte),
            }
        }
    }

    fn escape(&mut self) -> JsonResult<char> {
        Ok(match self.next()? {
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let unit = self.four_hex_digits()?;
                let low = if (0xd800..0xdc00).contains(&unit) && self.rest.starts_with(b"\\u") {
                    self.next()?;
                    self.next()?;
                    Some(self.four_hex_digits()?)
                } else {
                    None
                };
                let units = [Some(unit), low];
                let mut decoded = char::decode_utf16(units.into_iter().flatten());
                decoded
                    .next()
                    .and_then(Result::ok)
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            literal @ (b'"' | b'\\' | b'/') => char::from(literal),
            _ => return Err(NotJson),
        })
    }

    fn four_hex_digits(&mut self) -> JsonResult<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = char::from(self.next()?).to_digit(16).ok_or(NotJson)?;
            unit = unit << 4 | digit as u16;
        }
        Ok(unit)
    }

    fn next(&mut self) -> JsonResult<u8> {
        let (byte, rest) = self.rest.split_first().ok_or(NotJson)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn accept(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
        found
    }

    fn expect(&mut self, byte: u8) -> JsonResult<()> {
        if self.accept(byte) { Ok(()) } else { Err(NotJson) }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }
}
