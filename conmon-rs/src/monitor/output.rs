//! What the container writes: into the log, and to whoever is attached.

use std::time::{Duration, Instant};

use super::{Monitor, Phase};
use crate::attach::Attach;
use crate::contract::Stream;
use crate::log::Logs;
use crate::poller::{Event, Interest, Poller};
use crate::stdio::After;

/// After the container has ended: how long its descendants may be silent, and how long they may go on writing, before
/// we stop listening.
const LATE_OUTPUT_QUIET: Duration = Duration::from_secs(1);
const LATE_OUTPUT_LIMIT: Duration = Duration::from_secs(2);

impl Monitor<'_> {
    pub(super) fn read_output(&mut self, stream: Stream) {
        let after = match &mut self.phase {
            Phase::Creating(early) => self.stdio.pump(stream, |bytes| {
                if let Some(excess) = early.hold(stream, bytes) {
                    keep(&mut self.logs, &mut self.attach, &self.poller, stream, &excess);
                }
            }),
            Phase::Supervising => self.stdio.pump(stream, |bytes| {
                keep(&mut self.logs, &mut self.attach, &self.poller, stream, bytes);
            }),
        };
        let (Some(after), Some(output)) = (after, self.stdio.output(stream)) else {
            return;
        };
        match after {
            After::Wait => {}
            After::StillHungUp if !self.life.has_ended() => {}
            // Reported once; the next time when somebody has written again.
            After::HungUp if !self.life.has_ended() => {
                self.poller
                    .change(output, Event::Output(stream), Interest::NewlyReadable);
            }
            After::Revived => self.poller.change(output, Event::Output(stream), Interest::Readable),
            After::HungUp | After::StillHungUp | After::Close => {
                self.poller.remove(output);
                *self.stdio.output(stream) = None;
            }
        }
    }

    /// It is no runtime's last words, and neither is what comes now.
    pub(super) fn keep_early_output(&mut self) {
        if let Phase::Creating(early) = std::mem::replace(&mut self.phase, Phase::Supervising) {
            for (stream, output) in early.into_streams() {
                self.keep(stream, &output);
            }
        }
    }

    /// Lets the output of an exec wait for clients that are behind, and cuts off those that stay so. When the command has
    /// ended nothing waits any more.
    pub(super) fn regard_clients(&mut self) {
        let Some(attach) = &mut self.attach else { return };
        let ended = self.life.has_ended();
        if self.waits_for_clients {
            attach.drop_idle(Instant::now(), &self.poller);
        }
        if ended {
            attach.drop_far_behind(&self.poller);
        }
        let waits = !ended && attach.is_behind(self.waits_for_clients);
        let has_left = attach.anybody_left();
        if waits != self.waits_for_clients {
            self.waits_for_clients = waits;
            self.listen_to_output(!waits);
        }
        if has_left {
            self.take_input();
        }
    }

    fn listen_to_output(&mut self, listen: bool) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let Some(output) = self.stdio.output(stream) else {
                continue;
            };
            if !listen {
                self.poller.remove(output);
            } else if let Err(error) = self.poller.add(output, Event::Output(stream), output.interest()) {
                crate::warning!("watch output: {error}");
            }
        }
    }

    /// Reads until every writer is gone, or silent, or has had its time.
    pub(super) fn read_late_output(&mut self) {
        let end = Instant::now() + LATE_OUTPUT_LIMIT;
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.read_output(stream);
        }
        while self.stdio.is_open() {
            let quiet = (Instant::now() + LATE_OUTPUT_QUIET).min(end);
            let anything = self.turn(Some(quiet));
            let now = Instant::now();
            if now >= end || (!anything && now >= quiet) {
                return;
            }
        }
    }

    /// Logs first, then shows.
    fn keep(&mut self, stream: Stream, output: &[u8]) {
        keep(&mut self.logs, &mut self.attach, &self.poller, stream, output);
    }
}

fn keep(logs: &mut Logs, attach: &mut Option<Attach>, poller: &Poller, stream: Stream, output: &[u8]) {
    if output.is_empty() {
        return;
    }
    logs.append(stream, output);
    if let Some(attach) = attach {
        attach.broadcast(stream, output, poller);
    }
}
