//! How far a run is, in one line on the terminal. Nothing where standard error is none.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::Shared;
use crate::report::grouped;
use crate::workload::{Pattern, Workload};

/// The line.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    drain: bool,
    published: u64,
    consumed: u64,
    at_ns: u64,
}

impl Progress {
    /// Of a run of `workload`; `wanted` or not at all.
    pub fn new(workload: &Workload, wanted: bool) -> Self {
        let drain = workload.pattern == Pattern::BacklogDrain;
        let length = match drain {
            true => workload.messages.unwrap_or(0) * u64::from(workload.publishers),
            false => ((workload.warmup_s + workload.seconds) * 1e3) as u64,
        };
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        if wanted {
            // Hidden by itself where standard error is no terminal.
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        let style = ProgressStyle::with_template("{prefix:.bold} {bar:24} {percent:>3} %  {msg}")
            .expect("the template is constant and valid");
        bar.set_style(style);
        bar.set_prefix(workload.name.clone());
        Progress { bar, drain, published: 0, consumed: 0, at_ns: 0 }
    }

    /// Shows how far it is.
    pub fn show(&mut self, shared: &Shared) {
        let now_ns = shared.clock.now_ns();
        let (published, consumed) = (shared.published(), shared.consumed());
        if self.bar.is_hidden() || now_ns < self.at_ns + Duration::from_millis(200).as_nanos() as u64 {
            return;
        }
        let rate = |now: u64, before: u64| {
            grouped(now.saturating_sub(before) as f64 * 1e9 / (now_ns - self.at_ns) as f64, 0)
        };
        let (publishing, consuming) = (rate(published, self.published), rate(consumed, self.consumed));
        self.bar.set_message(format!("published {publishing} msg/s, consumed {consuming} msg/s"));
        self.bar.set_position(if self.drain { published.max(consumed) } else { now_ns / 1_000_000 });
        (self.published, self.consumed, self.at_ns) = (published, consumed, now_ns);
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
