//! Whether there is space for more, and what is said if there is none.

use std::path::Path;

use fulmar_core::journal::Reason;

/// Bytes of the file system that are left to others, and for what makes room here.
const RESERVE_BYTES: u64 = 256 << 20;

/// Whether a log has space.
#[derive(Debug, Default)]
pub(crate) struct Space {
    refusal: Option<Reason>,
    /// Free bytes of the file system, as far as known.
    disk_free_bytes: Option<u64>,
}

impl Space {
    /// Why nothing is admitted, if so.
    #[inline]
    pub fn refusal(&self) -> Option<&Reason> {
        self.refusal.as_ref()
    }

    /// Nothing is admitted for now.
    pub fn refuse(&mut self, reason: Reason) {
        self.refusal.get_or_insert(reason);
    }

    /// There is space.
    pub fn admit(&mut self) {
        self.refusal = None;
    }

    /// The file system has so many bytes free.
    pub fn set_disk_free_bytes(&mut self, bytes: u64) {
        self.disk_free_bytes = Some(bytes);
    }

    /// Whether a segment more fits.
    ///
    /// # Errors
    /// It does not; the words name the limit and the way out.
    pub fn room_for(
        &self,
        directory: &Path,
        used_bytes: u64,
        segment_bytes: u64,
        max_bytes: Option<u64>,
    ) -> Result<(), Reason> {
        let directory = directory.display();
        if let Some(max_bytes) = max_bytes.filter(|most| used_bytes + segment_bytes > *most) {
            let text = format!(
                "the journal in {directory} is full: its files have {} of the {} that it may use; consume or purge \
                 messages of durable queues, or raise --journal-max-bytes",
                mebibytes(used_bytes),
                mebibytes(max_bytes)
            );
            return Err(text.into());
        }
        if let Some(free_bytes) = self.disk_free_bytes.filter(|free| *free < segment_bytes + RESERVE_BYTES) {
            let text = format!(
                "the file system of the journal in {directory} is full: {} are free, and {} are kept in reserve; \
                 make room there, or consume or purge messages of durable queues",
                mebibytes(free_bytes),
                mebibytes(RESERVE_BYTES)
            );
            return Err(text.into());
        }
        Ok(())
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_name_the_directory_the_limit_and_the_way_out() {
        let space = Space::default();
        let reason =
            space.room_for(Path::new("/data/journal/0"), 96 << 20, 8 << 20, Some(100 << 20)).unwrap_err();
        for part in ["/data/journal/0", "96 MiB", "100 MiB", "consume", "--journal-max-bytes"] {
            assert!(reason.contains(part), "{reason}");
        }
        assert!(space.room_for(Path::new("/data"), 92 << 20, 8 << 20, Some(100 << 20)).is_ok());
    }

    #[test]
    fn a_file_system_that_fills_up_is_left_a_reserve() {
        let mut space = Space::default();
        assert!(space.room_for(Path::new("/data"), 0, 64 << 20, None).is_ok());
        space.set_disk_free_bytes(300 << 20);
        let reason = space.room_for(Path::new("/data"), 0, 64 << 20, None).unwrap_err();
        assert!(reason.contains("300 MiB are free"), "{reason}");
    }
}
