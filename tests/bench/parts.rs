//! The part of a container that writes, done by this program itself, so that it costs little beside the monitor.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

/// One write of the container.
const PIECE_BYTES: usize = 64 * 1024;

/// What a container writes.
pub const SHAPES: [(&str, &str); 4] = [
    ("short", "lines of 80 bytes"),
    ("long", "lines of 10 KiB"),
    ("endless", "no line ends"),
    ("two", "lines of 80 bytes on both streams"),
];

/// Writes this many bytes and a last line `END` on each stream, then stays until it is killed.
pub fn write(shape: &str, bytes: usize) -> anyhow::Result<()> {
    let line_bytes = match shape {
        "long" => 10 * 1024,
        "endless" => usize::MAX,
        _ => 80,
    };
    // Whole lines, more than a piece of them: pieces end in the middle of a line, as those of a program with a buffer do.
    let text: Vec<u8> = (1..=PIECE_BYTES * 10)
        .map(|at| if at % line_bytes == 0 { b'\n' } else { b'x' })
        .collect();
    // Without the buffer that the library's standard output has.
    let mut streams = vec![File::from(std::io::stdout().as_fd().try_clone_to_owned()?)];
    if shape == "two" {
        streams.push(File::from(std::io::stderr().as_fd().try_clone_to_owned()?));
    }
    let mut written = 0;
    for piece in text.chunks(PIECE_BYTES).cycle() {
        for stream in &mut streams {
            let piece = piece.get(..piece.len().min(bytes - written)).unwrap_or_default();
            stream.write_all(piece)?;
            written += piece.len();
        }
        if written >= bytes {
            break;
        }
    }
    for stream in &mut streams {
        stream.write_all(b"\nEND\n")?;
    }
    std::thread::sleep(Duration::from_secs(3600));
    Ok(())
}
