//! What a person at a terminal sees of work that is long. Nothing is drawn where standard error is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the time is drawn anew while nothing else changes.
const TICK: Duration = Duration::from_millis(200);

/// Work of unknown length: what it is, and for how long it has been under way. Gone from the screen when it is dropped.
pub fn spinner(what: String) -> Shown {
    start(ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}", what)
}

/// Work of so many pieces; [`Shown::advance`] counts them.
pub fn bar(pieces: usize, what: String) -> Shown {
    let bar = ProgressBar::new(u64::try_from(pieces).unwrap_or(u64::MAX));
    start(bar, "{msg} [{bar:30}] {pos}/{len} {elapsed}", what)
}

fn start(bar: ProgressBar, template: &str, what: String) -> Shown {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(TICK);
    Shown(bar)
}

/// On the screen until it is dropped.
pub struct Shown(ProgressBar);

impl Shown {
    pub fn advance(&self) {
        self.0.inc(1);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_drawn_as_meant_and_count() {
        for template in ["{spinner} {msg} {elapsed}", "{msg} [{bar:30}] {pos}/{len} {elapsed}"] {
            ProgressStyle::with_template(template).unwrap();
        }
        let bar = bar(3, "removing".to_owned());
        bar.advance();
        assert_eq!((bar.0.position(), bar.0.length()), (1, Some(3)));
    }
}
