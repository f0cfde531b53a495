//! An OCI runtime's last words: what went wrong, out of whatever it printed.
//!
//! A runtime logs in JSON where it is asked to (crun does without being asked), in logfmt else (runc), and prints plain
//! lines too: usage, a panic, crun's own errors.

/// A line of a log.
struct Entry {
    level: String,
    message: String,
}

/// What a runtime says went wrong: the message of its last error in JSON or logfmt; without one its last line, of which
/// the message where it is a line of a log. `None` when it said nothing.
pub fn words(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let mut last = None;
    for line in text.lines().rev().map(str::trim).filter(|line| !line.is_empty()) {
        let entry = json(line).or_else(|| logfmt(line));
        let is_error = entry
            .as_ref()
            .is_some_and(|entry| matches!(entry.level.as_str(), "error" | "fatal" | "panic"));
        let said = entry.map_or_else(|| line.to_owned(), |entry| entry.message);
        if is_error {
            return Some(said);
        }
        last.get_or_insert(said);
    }
    last
}

/// A line of JSON with a message; without a level it is an error.
fn json(line: &str) -> Option<Entry> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(Entry {
        level: entry
            .get("level")
            .and_then(|level| level.as_str())
            .unwrap_or("error")
            .to_owned(),
        message: said(entry.get("msg")?.as_str()?)?,
    })
}

/// A line of `key=value` and `key="quoted value"` that has a level and a message.
fn logfmt(line: &str) -> Option<Entry> {
    let (mut level, mut message) = (None, None);
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '"') {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = after.find(' ').unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.to_owned(), after)
            }
        };
        match key {
            "level" => level = Some(value),
            "msg" => message = Some(value),
            _ => {}
        }
        rest = after.trim_start();
    }
    Some(Entry {
        level: level?,
        message: said(&message?)?,
    })
}

/// A message that says something.
fn said(message: &str) -> Option<String> {
    let message = message.trim();
    (!message.is_empty()).then(|| message.to_owned())
}

/// The text up to the closing quote, and what comes behind that; `None` when the quote is not closed.
///
/// Source: the Go language specification, string literals, as `strconv.Quote` writes them.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut text = Vec::new();
    let mut rest = quoted;
    loop {
        let special = rest.find(['"', '\\'])?;
        let (plain, after) = rest.split_at(special);
        text.extend_from_slice(plain.as_bytes());
        if let Some(behind) = after.strip_prefix('"') {
            return Some((String::from_utf8_lossy(&text).into_owned(), behind));
        }
        let mut escape = after.chars();
        escape.next();
        let kind = escape.next()?;
        rest = escape.as_str();
        let digits = match kind {
            'n' => {
                text.push(b'\n');
                continue;
            }
            // The other control characters: a message is shown in one line.
            'a' | 'b' | 'f' | 'r' | 't' | 'v' => {
                text.push(b' ');
                continue;
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            itself => {
                text.extend_from_slice(itself.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        let (number, after) = rest.split_at_checked(digits)?;
        let number = u32::from_str_radix(number, 16).ok()?;
        rest = after;
        match (kind, u8::try_from(number)) {
            // A byte that was no text.
            ('x', Ok(byte)) => text.push(byte),
            _ => text.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_error_line_is_what_the_runtime_says() {
        let json = br#"{"level":"warning","msg":"w","time":"t"}
{"level":"error","msg":"exec: \"nope\": not found","time":"t"}
{"level":"info","msg":"bye"}"#;
        assert_eq!(words(json).unwrap(), "exec: \"nope\": not found");
        let logfmt = br#"time="2026-01-02T03:04:05Z" level=warning msg="signal: killed"
time="2026-01-02T03:04:05Z" level=error msg="write \"8000\": out of range\n" code=3
bye"#;
        assert_eq!(words(logfmt).unwrap(), "write \"8000\": out of range");
        assert_eq!(words(b"level=fatal msg=refused").unwrap(), "refused");
    }

    #[test]
    fn without_an_error_it_is_the_last_line() {
        assert_eq!(words(b"first\n  last words \n\n").unwrap(), "last words");
        assert_eq!(words(b"level=info msg=\"half way\"\n").unwrap(), "half way");
        assert_eq!(
            words(b"level=info msg=half\nSegmentation fault").unwrap(),
            "Segmentation fault"
        );
        assert_eq!(words(b"\n \n"), None);
        assert_eq!(words(b"\xff\xfe{").unwrap(), "\u{fffd}\u{fffd}{");
    }

    #[test]
    fn what_only_looks_like_a_log_is_quoted_as_it_is() {
        for line in [
            r#"level=error msg="never closed"#,
            r#"level=error msg="cut off \"#,
            r#"level=error msg="\xZZ""#,
            r#"level=error msg="\x"#,
            r#"level=error msg="\xa€""#,
            r#"level=error msg="\uD800""#,
            r#"level=error msg="""#,
            "level=error msg=",
            "level=error without a message",
            "set a=b first",
            "=",
            "==",
            r#"{"level":"error"}"#,
            r#"{"level":"error","msg":""}"#,
            r#"{"msg":7}"#,
        ] {
            assert_eq!(words(line.as_bytes()).unwrap(), line);
        }
    }

    #[test]
    fn escapes_are_the_characters_they_stand_for() {
        let line = r#"level=error msg="\u00e9 \U0001F600 \xc3\xa9 \xff C:\\ a\tb\x41""#;
        assert_eq!(words(line.as_bytes()).unwrap(), "é 😀 é \u{fffd} C:\\ a bA");
    }

    proptest! {
        #[test]
        fn any_output_has_words_unless_it_is_blank(output in proptest::collection::vec(any::<u8>(), 0..200)) {
            let blank = String::from_utf8_lossy(&output).trim().is_empty();
            prop_assert_eq!(words(&output).is_none(), blank);
        }

        #[test]
        fn a_quoted_message_is_read_as_it_was_meant(message in r#"[a-zé"\\=\{][a-zé"\\= {}]{0,40}[a-zé"\\=\}]"#) {
            let quoted = message.replace('\\', r"\\").replace('"', "\\\"");
            let line = format!("time=\"now\" level=error msg=\"{quoted}\"");
            prop_assert_eq!(words(line.as_bytes()).unwrap(), message);
        }

        #[test]
        fn nothing_that_looks_like_logfmt_panics(tail in r#"[a-z="\\xuU0-9é ]{0,60}"#) {
            let _ = words(format!("level=error msg=\"{tail}").as_bytes());
        }
    }
}
