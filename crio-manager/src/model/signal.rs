//! Signals by the names that images and clients use.

/// Names of Linux' standard signals on x86 and arm, by number; some have two.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

/// The first and last real-time signal that programs may use.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number, 1–64, of `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `SIGRTMINPLUS3`; any case. `None` for anything else.
pub fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == short) {
        return Some(*number);
    }
    let number = match short.strip_prefix("RTMIN") {
        Some("") => RTMIN,
        Some(rest) => RTMIN.checked_add(steps(rest, "+", "PLUS")?)?,
        None => match short.strip_prefix("RTMAX")? {
            "" => RTMAX,
            rest => RTMAX.checked_sub(steps(rest, "-", "MINUS")?)?,
        },
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

fn steps(text: &str, sign: &str, word: &str) -> Option<i32> {
    let digits = text.strip_prefix(sign).or_else(|| text.strip_prefix(word))?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_all_their_names() {
        for (name, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMINPLUS15", Some(49)),
            ("SIGRTMAXMINUS14", Some(50)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("", None),
            ("SIG", None),
            ("RTMIN+31", None),
            ("RTMIN+-1", None),
            ("RTMAX+1", None),
            ("RTMIN+99999999999", None),
            ("SIGTERM\0", None),
            (" TERM", None),
        ] {
            assert_eq!(number(name), expected, "{name:?}");
        }
    }
}
