//! Files where there is no ring for them: a thread does one operation after the other, in the order in which they came.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::file::{FileDone, FileId, FileOperation, OpenOptions};
use crate::files::{FileTable, Progress, not_open, read, written};
use crate::waker::EventWaker;
use crate::{AlignedBuf, Event, Waker};

/// What the transport and the thread share.
struct Desk {
    waiting: Mutex<Waiting>,
    came: Condvar,
    done: Mutex<Vec<FileDone>>,
    /// Wakes the transport.
    waker: EventWaker,
}

#[derive(Default)]
struct Waiting {
    operations: VecDeque<(u64, FileOperation)>,
    over: bool,
}

/// The files of a transport over epoll.
#[derive(Default)]
pub(super) struct Files {
    helper: Option<Helper>,
    /// Ended and not told yet.
    ended: Vec<FileDone>,
}

struct Helper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// Nothing that is done under these locks can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// Starts an operation. The first one makes the thread, whose waker `watch` is to watch.
    pub(super) fn start(
        &mut self,
        token: u64,
        operation: FileOperation,
        watch: impl FnOnce(RawFd) -> io::Result<()>,
    ) {
        if self.helper.is_none() {
            match Helper::new(watch) {
                Ok(helper) => self.helper = Some(helper),
                Err(error) => {
                    let (result, bytes) = (Err(error), operation.into_bytes());
                    return self.ended.push(FileDone { token, result, bytes });
                }
            }
        }
        if let Some(Helper { desk, .. }) = &self.helper {
            lock(&desk.waiting).operations.push_back((token, operation));
            desk.came.notify_one();
        }
    }

    /// Whether something has ended that no report will tell of.
    #[inline]
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Tells what has ended.
    #[inline]
    pub(super) fn tell(&mut self, events: &mut Vec<Event>) {
        if let Some(Helper { desk, .. }) = &self.helper
            && desk.waker.take()
        {
            std::mem::swap(&mut self.ended, &mut *lock(&desk.done));
        }
        events.extend(self.ended.drain(..).map(Event::File));
    }
}

impl Helper {
    fn new(watch: impl FnOnce(RawFd) -> io::Result<()>) -> io::Result<Self> {
        let desk = Arc::new(Desk {
            waiting: Mutex::default(),
            came: Condvar::new(),
            done: Mutex::default(),
            waker: EventWaker::new()?,
        });
        watch(desk.waker.fd())?;
        let shared = desk.clone();
        let thread = std::thread::Builder::new().name("files".into()).spawn(move || work(&shared))?;
        Ok(Helper { desk, thread: Some(thread) })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let mut waiting = lock(&self.desk.waiting);
        waiting.over = true;
        waiting.operations.clear();
        drop(waiting);
        self.desk.came.notify_one();
        let _ = thread.join();
    }
}

/// The thread.
fn work(desk: &Desk) {
    let mut open = FileTable::new();
    loop {
        let mut waiting = lock(&desk.waiting);
        let (token, operation) = loop {
            if waiting.over {
                return;
            }
            match waiting.operations.pop_front() {
                Some(next) => break next,
                None => waiting = desk.came.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(waiting);
        let (result, bytes) = perform(&mut open, operation);
        lock(&desk.done).push(FileDone { token, result, bytes });
        desk.waker.wake();
    }
}

struct OpenFile {
    file: File,
    direct: bool,
}

fn perform(
    open: &mut FileTable<OpenFile>,
    operation: FileOperation,
) -> (io::Result<usize>, Option<AlignedBuf>) {
    match operation {
        FileOperation::Open(path, options) => (start(open, &path, options), None),
        FileOperation::Write { file, offset, bytes, sync } => {
            let result = find(open, file).and_then(|file| write_all(file, &bytes, offset, sync));
            (result, Some(bytes))
        }
        FileOperation::Read { file, offset, mut bytes } => {
            bytes.resize(bytes.capacity());
            let result = find(open, file).and_then(|file| read_all(file, &mut bytes, offset));
            bytes.resize(*result.as_ref().unwrap_or(&0));
            (result, Some(bytes))
        }
        FileOperation::Sync(file) => (nothing(find(open, file).and_then(|file| file.file.sync_data())), None),
        FileOperation::Allocate(file, bytes) => {
            (nothing(find(open, file).and_then(|file| allocate(&file.file, bytes))), None)
        }
        FileOperation::Close(file) => (open.remove(file).map(|_| 0).ok_or_else(not_open), None),
        FileOperation::Remove(path) => (nothing(fs::remove_file(path)), None),
        FileOperation::Rename(from, to) => (nothing(fs::rename(from, to)), None),
        FileOperation::SyncDirectory(path) => {
            (nothing(File::open(path).and_then(|directory| directory.sync_all())), None)
        }
    }
}

fn nothing(result: io::Result<()>) -> io::Result<usize> {
    result.map(|()| 0)
}

fn find(open: &mut FileTable<OpenFile>, file: FileId) -> io::Result<&OpenFile> {
    open.get_mut(file).map(|file| &*file).ok_or_else(not_open)
}

fn start(open: &mut FileTable<OpenFile>, path: &Path, options: OpenOptions) -> io::Result<usize> {
    let flags = if options.direct { libc::O_DIRECT } else { 0 };
    let mut how = fs::OpenOptions::new();
    how.read(true).write(options.write).create(options.write).mode(0o600).custom_flags(flags);
    let file = OpenFile { file: how.open(path)?, direct: options.direct };
    open.insert(file).map(|file| file.0 as usize)
}

fn write_all(open: &OpenFile, bytes: &[u8], offset: u64, sync: bool) -> io::Result<usize> {
    let mut from = 0;
    while !bytes.is_empty() {
        match written(
            from,
            again(|| open.file.write_at(&bytes[from..], offset + from as u64))?,
            bytes.len(),
            open.direct,
        ) {
            Progress::From(next) => from = next,
            Progress::Complete => break,
            Progress::Stuck => return Err(io::ErrorKind::WriteZero.into()),
        }
    }
    if sync {
        open.file.sync_data()?;
    }
    Ok(bytes.len())
}

fn read_all(open: &OpenFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut from = 0;
    loop {
        let more = again(|| open.file.read_at(&mut bytes[from..], offset + from as u64))?;
        match read(from, more, bytes.len(), open.direct) {
            Progress::From(next) => from = next,
            _ => return Ok(from + more),
        }
    }
}

/// Until it is not interrupted.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    again(|| {
        // SAFETY: no pointers; the descriptor is open.
        match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}
