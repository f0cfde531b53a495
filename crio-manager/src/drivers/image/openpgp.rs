//! Simple signatures: a claim in an OpenPGP message. gpgv reads it, as it does for apt: it trusts the keys of one file and
//! nothing else, and knows no network.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::process::Command;
use tokio::time::timeout;

use crate::drivers::child;

const GPGV: &str = "gpgv";
/// How long it may take.
const VERIFY_LIMIT: Duration = Duration::from_secs(30);
/// The largest claim that is unpacked, in bytes: messages are compressed.
const CLAIM_BYTES: u64 = 1 << 20;

const ARMOR_BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const ARMOR_END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Keys as gpgv takes them: binary, whichever form they come in. Errors: the reason.
pub fn binary_keys(keys: &[u8]) -> Result<Vec<u8>, String> {
    let armored = keys.trim_ascii_start().starts_with(ARMOR_BEGIN.as_bytes());
    if !armored {
        // The first byte of a packet has its top bit set.
        return match keys.first() {
            Some(first) if first & 0x80 != 0 => Ok(keys.to_vec()),
            _ => Err("not OpenPGP keys".to_owned()),
        };
    }
    let text = std::str::from_utf8(keys).map_err(|_| "armored keys that are not text".to_owned())?;
    let mut binary = Vec::new();
    for block in text.split(ARMOR_BEGIN).skip(1) {
        let (block, _) = block.split_once(ARMOR_END).ok_or("armored keys without an end")?;
        // Headers, an empty line, the keys, and a checksum that begins with `=`.
        let lines = block.lines().skip(1).skip_while(|line| !line.trim().is_empty());
        let encoded: String = lines.map(str::trim).take_while(|line| !line.starts_with('=')).collect();
        let decoded = BASE64_STANDARD.decode(&encoded);
        binary.extend(decoded.map_err(|_| "armored keys that are not base64".to_owned())?);
    }
    Ok(binary)
}

/// What was signed, if `message` is signed by one of these keys. Errors: the reason.
pub async fn signed_content(keys: &[u8], message: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("a signature cannot be verified: {error}");
    let directory = tempfile::tempdir().map_err(failed)?;
    let at = |name: &str| directory.path().join(name);
    tokio::fs::write(at("keys"), keys).await.map_err(failed)?;
    tokio::fs::write(at("message"), message).await.map_err(failed)?;
    let mut command = Command::new(GPGV);
    command
        .arg("--homedir")
        .arg(directory.path())
        .arg("--keyring")
        .arg(at("keys"))
        .args(["--status-fd", "1", "--output"])
        .arg(at("claim"))
        .arg(at("message"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    child::hides_the_service_manager(&mut command);
    child::writes_at_most(&mut command, CLAIM_BYTES);
    child::dies_with_us(&mut command);
    let ended = timeout(VERIFY_LIMIT, command.output()).await;
    let output = match ended {
        Err(_elapsed) => return Err(format!("{GPGV} does not come to an end")),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Err(format!("{GPGV} is not installed")),
        Ok(output) => output.map_err(failed)?,
    };
    judge(&String::from_utf8_lossy(&output.stdout), output.status.success())?;
    read(&at("claim")).await.map_err(failed)
}

/// What gpgv says of a message: exactly one signature, good, by a key that was neither revoked nor had expired.
fn judge(said: &str, succeeded: bool) -> Result<(), String> {
    let words = || said.lines().filter_map(|line| line.strip_prefix("[GNUPG:] "));
    let count = |word: &str| words().filter(|line| line.split(' ').next() == Some(word)).count();
    for (word, why) in [
        ("NO_PUBKEY", "a signature is by none of the keys"),
        ("REVKEYSIG", "a signature is by a key that was revoked"),
        ("EXPKEYSIG", "a signature is by a key that has expired"),
        ("KEYEXPIRED", "a signature is by a key that has expired"),
        ("EXPSIG", "a signature has expired"),
        ("BADSIG", "a signature does not match what is signed"),
    ] {
        if count(word) > 0 {
            return Err(why.to_owned());
        }
    }
    match succeeded && [count("NEWSIG"), count("GOODSIG"), count("VALIDSIG"), count("PLAINTEXT")] == [1; 4] {
        true => Ok(()),
        false => Err("a signature is none that can be verified".to_owned()),
    }
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt;
    let mut content = Vec::new();
    tokio::fs::File::open(path)
        .await?
        .take(CLAIM_BYTES)
        .read_to_end(&mut content)
        .await?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_good_signature_and_nothing_else_will_do() {
        let good = "[GNUPG:] NEWSIG\n[GNUPG:] PLAINTEXT 62 1 c\n[GNUPG:] GOODSIG A x\n[GNUPG:] VALIDSIG B\n";
        assert_eq!(judge(good, true), Ok(()));
        assert!(judge(good, false).is_err());
        assert!(judge(&good.repeat(2), true).is_err(), "two signatures");
        for (more, why) in [
            ("[GNUPG:] EXPKEYSIG A x", "has expired"),
            ("[GNUPG:] REVKEYSIG A x", "revoked"),
            ("[GNUPG:] NO_PUBKEY A", "none of the keys"),
            ("[GNUPG:] PLAINTEXT 62 1 c", "none that can"),
        ] {
            assert!(
                judge(&format!("{good}{more}\n"), true).unwrap_err().contains(why),
                "{more}"
            );
        }
        assert!(judge("", true).is_err());
        assert!(judge("GOODSIG without its beginning\n", true).is_err());
    }

    #[test]
    fn keys_are_taken_armored_and_binary() {
        let armored = format!("{ARMOR_BEGIN}\nVersion: x\n\nmQEN\nBFhX\n=abcd\n{ARMOR_END}\n");
        assert_eq!(
            binary_keys(armored.as_bytes()).unwrap(),
            BASE64_STANDARD.decode("mQENBFhX").unwrap()
        );
        let twice = format!("{ARMOR_BEGIN}\n\nmQEN\n{ARMOR_END}\n").repeat(2);
        assert_eq!(
            binary_keys(twice.as_bytes()).unwrap(),
            BASE64_STANDARD.decode("mQENmQEN").unwrap()
        );
        assert_eq!(binary_keys(&[0x99, 1]).unwrap(), [0x99, 1]);
        for bad in [
            &b""[..],
            b"text",
            ARMOR_BEGIN.as_bytes(),
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n?\n-----END PGP PUBLIC KEY BLOCK-----",
        ] {
            assert!(binary_keys(bad).is_err(), "{bad:?}");
        }
    }
}
