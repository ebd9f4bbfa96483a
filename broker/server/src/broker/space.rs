//! Looks now and then how much space the file system of the data directory has, so that no shard has to wait for it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::worker::Outlook;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks until it is dropped.
pub struct Watch {
    _until_dropped: Sender<()>,
}

impl Watch {
    /// Starts a thread that tells the shards.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(directory: &Path, outlooks: Vec<Arc<Outlook>>) -> io::Result<Self> {
        let path = directory.to_path_buf();
        tell(&path, &outlooks);
        let (until_dropped, dropped) = channel();
        let watch = move || {
            while dropped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                tell(&path, &outlooks);
            }
        };
        std::thread::Builder::new().name("fulmar-space".to_string()).spawn(watch)?;
        Ok(Watch { _until_dropped: until_dropped })
    }
}

fn tell(path: &Path, outlooks: &[Arc<Outlook>]) {
    // A directory that is gone says nothing; what is written there says enough.
    let Ok(free_bytes) = free_bytes(path) else { return };
    for outlook in outlooks {
        outlook.free_bytes.store(free_bytes, Ordering::Relaxed);
    }
}

/// Bytes that this user may still write.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let stats = rustix::fs::statvfs(path)?;
    Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_what_the_file_system_has() {
        let directory = tempfile::tempdir().unwrap();
        let outlook = Arc::new(Outlook::default());
        let _watch = Watch::start(directory.path(), vec![outlook.clone()]).unwrap();
        assert!(outlook.free_bytes.load(Ordering::Relaxed) < Outlook::UNKNOWN);
    }
}
