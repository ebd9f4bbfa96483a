//! One log line a fault of a peer, but never a flood of them.

use std::fmt;

const LINES_PER_SECOND: u32 = 20;
const SECOND_NS: u64 = 1_000_000_000;

/// Lets through so many lines a second and counts the rest.
#[derive(Debug, Default)]
pub struct FaultLog {
    window_ends_ns: u64,
    lines: u32,
    suppressed: u64,
}

impl FaultLog {
    /// Logs a fault, unless there were too many lately.
    pub fn warn(&mut self, now_ns: u64, text: fmt::Arguments<'_>) {
        if self.admit(now_ns) {
            log::warn!("{text}");
        }
    }

    fn admit(&mut self, now_ns: u64) -> bool {
        if now_ns >= self.window_ends_ns {
            self.window_ends_ns = now_ns + SECOND_NS;
            self.lines = 0;
            if self.suppressed > 0 {
                log::warn!("{} more faults of peers were not logged", self.suppressed);
                self.suppressed = 0;
            }
        }
        self.lines += 1;
        if self.lines > LINES_PER_SECOND {
            self.suppressed += 1;
        }
        self.lines <= LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut log = FaultLog::default();
        let admitted = (0..1000).filter(|i| log.admit(*i)).count();
        assert_eq!(admitted, LINES_PER_SECOND as usize);
        assert_eq!(log.suppressed, 1000 - u64::from(LINES_PER_SECOND));
        assert!(log.admit(2 * SECOND_NS));
        assert_eq!(log.suppressed, 0);
    }
}
