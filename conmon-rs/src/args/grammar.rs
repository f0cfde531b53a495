//! Words → `Options`: the grammar of GLib's option parser, on whose oddities callers rely (flags that ignore a value,
//! left-over words that are ignored, the last of two wins), but for raw bytes instead of text in the locale's charset.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::options::Value::{Flag, List, MaybeLongNumber, MaybeNumber, Number, Text};
use super::options::{OPTIONS, OptionName, Options};

/// Reads the arguments that follow the program's name. The error is the reason, ready for "option parsing failed: ".
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => break,
            [b'-', b'-', name @ ..] => {
                let (name, attached) = match name.iter().position(|byte| *byte == b'=') {
                    Some(at) => (name.get(..at).unwrap_or_default(), name.get(at + 1..)),
                    None => (name, None),
                };
                if attached.is_none() && matches!(name, b"help" | b"help-all") {
                    options.help = true;
                    return Ok(options);
                }
                let known = OPTIONS.iter().find(|option| option.long.as_bytes() == name);
                let known = known.ok_or_else(|| format!("Unknown option {}", word.to_string_lossy()))?;
                let shown = format!("--{}", known.long);
                let attached = attached.map(|value| OsString::from_vec(value.to_vec()));
                known.take(&mut options, &shown, || attached.or_else(|| words.next()))?;
            }
            [b'-', cluster @ ..] if !cluster.is_empty() => {
                let mut took_next_word = false;
                for letter in cluster {
                    if matches!(letter, b'h' | b'?') {
                        options.help = true;
                        return Ok(options);
                    }
                    let known = OPTIONS.iter().find(|option| option.short == *letter && *letter != 0);
                    let known = known.ok_or_else(|| format!("Unknown option {}", word.to_string_lossy()))?;
                    let shown = format!("-{}", char::from(*letter));
                    if took_next_word && !matches!(known.value, Flag(_)) {
                        return Err(format!("Error parsing option {shown}"));
                    }
                    known.take(&mut options, &shown, || {
                        took_next_word = true;
                        words.next()
                    })?;
                }
            }
            _ => {} // words that belong to no option are ignored
        }
    }
    Ok(options)
}

impl OptionName {
    fn take(&self, options: &mut Options, shown: &str, value: impl FnOnce() -> Option<OsString>) -> Result<(), String> {
        let value = || value().ok_or_else(|| format!("Missing argument for {shown}"));
        match self.value {
            Flag(field) => *field(options) = true,
            Text(field) => *field(options) = Some(value()?),
            List(field) => field(options).push(value()?),
            Number(field) => *field(options) = number(&value()?, shown)?,
            MaybeNumber(field) => *field(options) = Some(number(&value()?, shown)?),
            MaybeLongNumber(field) => *field(options) = Some(number(&value()?, shown)?),
        }
        Ok(())
    }
}

/// Decimal, hexadecimal after `0x`, octal after `0`; a sign and leading white space are allowed.
fn number<N: TryFrom<i128>>(text: &OsString, shown: &str) -> Result<N, String> {
    let broken = || format!("Cannot parse integer value “{}” for {shown}", text.to_string_lossy());
    let out_of_range = || format!("Integer value “{}” for {shown} out of range", text.to_string_lossy());
    let word = text.to_str().ok_or_else(broken)?;
    let word = word.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (16, hex),
        None if digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(broken());
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| out_of_range())?;
    N::try_from(sign * magnitude).map_err(|_| out_of_range())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_words_are_options_or_a_reason(
            words in proptest::collection::vec(
                prop_oneof![
                    "-{0,2}[a-zA-Z0=-]{0,12}".prop_map(OsString::from),
                    (0..OPTIONS.len()).prop_map(|at| format!("--{}", OPTIONS[at].long).into()),
                    any::<Vec<u8>>().prop_map(OsString::from_vec),
                ],
                0..12,
            ),
        ) {
            if let Ok(options) = parse(words) {
                let _ = options.check();
            }
        }

        #[test]
        fn a_number_is_what_its_digits_say(number: i32) {
            for text in [number.to_string(), format!(" {number}")] {
                prop_assert_eq!(super::number::<i32>(&text.into(), "-T"), Ok(number));
            }
            if number > 0 {
                prop_assert_eq!(super::number::<i32>(&format!("{number:#x}").into(), "-T"), Ok(number));
                prop_assert_eq!(super::number::<i32>(&format!("0{number:o}").into(), "-T"), Ok(number));
            }
        }
    }
}
