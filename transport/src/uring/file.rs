//! Files over the ring. An operation stands in a slab, with its buffer, until the kernel has ended it.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{opcode, squeue};
use slab::Slab;

use super::{Op, UringTransport, split_user_data, user_data};
use crate::file::{FileDone, FileId, FileOperation, OpenOptions};
use crate::files::{FileTable, Progress, not_open, read, written};
use crate::{AlignedBuf, ConnId, Event, clock};

/// Bytes that one operation of the kernel moves at most.
const MOST_BYTES: usize = 1 << 30;
/// How long a transport that goes waits for the kernel to let go of buffers, in nanoseconds.
const PARTING_NS: u64 = 5_000_000_000;

struct OpenFile {
    fd: OwnedFd,
    direct: bool,
    in_flight: u32,
    /// To be closed, for this token, when nothing is in flight.
    closing: Option<u64>,
}

struct Running {
    token: u64,
    step: Step,
}

/// What the kernel is doing, with what it may touch meanwhile.
enum Step {
    Open { path: CString, options: OpenOptions },
    Write { file: FileId, offset: u64, bytes: AlignedBuf, done: usize, sync: bool },
    Read { file: FileId, offset: u64, bytes: AlignedBuf, done: usize },
    Sync(FileId),
    Allocate(FileId, u64),
    Close(i32),
    Remove(CString),
    Rename(CString, CString),
    OpenDirectory(CString),
    SyncDirectory(OwnedFd),
}

/// The files of a ring.
pub(super) struct Files {
    open: FileTable<OpenFile>,
    running: Slab<Running>,
    /// Ended without the kernel.
    ended: Vec<FileDone>,
}

impl Files {
    pub(super) fn new() -> Self {
        Files { open: FileTable::new(), running: Slab::new(), ended: Vec::new() }
    }

    /// What reaches the kernel for a step.
    fn entry(&mut self, key: usize) -> io::Result<squeue::Entry> {
        let here = Fd(libc::AT_FDCWD);
        let step = &mut self.running[key].step;
        let open = &mut self.open;
        let mut fd =
            |file: FileId| open.get_mut(file).map(|file| Fd(file.fd.as_raw_fd())).ok_or_else(not_open);
        Ok(match step {
            Step::Open { path, options } => {
                let access = if options.write { libc::O_RDWR | libc::O_CREAT } else { libc::O_RDONLY };
                let direct = if options.direct { libc::O_DIRECT } else { 0 };
                let flags = access | direct | libc::O_CLOEXEC;
                opcode::OpenAt::new(here, path.as_ptr()).flags(flags).mode(0o600).build()
            }
            Step::Write { file, offset, bytes, done, sync } => {
                let rest = &bytes[*done..];
                let len = rest.len().min(MOST_BYTES) as u32;
                opcode::Write::new(fd(*file)?, rest.as_ptr(), len)
                    .offset(*offset + *done as u64)
                    .rw_flags(if *sync { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Step::Read { file, offset, bytes, done } => {
                let rest = &mut bytes[*done..];
                let len = rest.len().min(MOST_BYTES) as u32;
                opcode::Read::new(fd(*file)?, rest.as_mut_ptr(), len).offset(*offset + *done as u64).build()
            }
            Step::Sync(file) => opcode::Fsync::new(fd(*file)?).flags(FsyncFlags::DATASYNC).build(),
            Step::Allocate(file, bytes) => opcode::Fallocate::new(fd(*file)?, *bytes).build(),
            Step::Close(fd) => opcode::Close::new(Fd(*fd)).build(),
            Step::Remove(path) => opcode::UnlinkAt::new(here, path.as_ptr()).build(),
            Step::Rename(from, to) => opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build(),
            Step::OpenDirectory(path) => {
                let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
                opcode::OpenAt::new(here, path.as_ptr()).flags(flags).build()
            }
            Step::SyncDirectory(fd) => opcode::Fsync::new(Fd(fd.as_raw_fd())).build(),
        })
    }

    fn end(&mut self, token: u64, result: io::Result<usize>, bytes: Option<AlignedBuf>) {
        self.ended.push(FileDone { token, result, bytes });
    }

    /// Has the file been opened for going past the page cache?
    fn is_direct(&mut self, file: FileId) -> bool {
        self.open.get_mut(file).is_some_and(|file| file.direct)
    }
}

fn text(path: PathBuf) -> io::Result<CString> {
    CString::new(path.into_os_string().into_vec()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

impl Step {
    /// The first step of an operation; gives the operation's buffer back with an error.
    fn first(operation: FileOperation) -> Result<Step, (io::Error, Option<AlignedBuf>)> {
        let named = |made: io::Result<Step>| made.map_err(|error| (error, None));
        match operation {
            FileOperation::Open(path, options) => named(text(path).map(|path| Step::Open { path, options })),
            FileOperation::Write { file, offset, bytes, sync } => {
                Ok(Step::Write { file, offset, bytes, done: 0, sync })
            }
            FileOperation::Read { file, offset, mut bytes } => {
                bytes.resize(bytes.capacity());
                Ok(Step::Read { file, offset, bytes, done: 0 })
            }
            FileOperation::Sync(file) => Ok(Step::Sync(file)),
            FileOperation::Allocate(file, bytes) => Ok(Step::Allocate(file, bytes)),
            FileOperation::Close(_) => unreachable!("closing begins when nothing is in flight"),
            FileOperation::Remove(path) => named(text(path).map(Step::Remove)),
            FileOperation::Rename(from, to) => {
                named(text(from).and_then(|from| Ok(Step::Rename(from, text(to)?))))
            }
            FileOperation::SyncDirectory(path) => named(text(path).map(Step::OpenDirectory)),
        }
    }

    /// The file that must not be closed meanwhile.
    fn file(&self) -> Option<FileId> {
        match self {
            Step::Write { file, .. }
            | Step::Read { file, .. }
            | Step::Sync(file)
            | Step::Allocate(file, _) => Some(*file),
            _ => None,
        }
    }

    fn into_bytes(self) -> Option<AlignedBuf> {
        match self {
            Step::Write { bytes, .. } | Step::Read { bytes, .. } => Some(bytes),
            _ => None,
        }
    }
}

impl UringTransport {
    pub(super) fn start_file(&mut self, token: u64, operation: FileOperation) {
        if let FileOperation::Close(file) = operation {
            return self.start_close(token, file);
        }
        let step = match Step::first(operation) {
            Ok(step) => step,
            Err((error, bytes)) => return self.files.end(token, Err(error), bytes),
        };
        if let Some(file) = step.file() {
            match self.files.open.get_mut(file).filter(|file| file.closing.is_none()) {
                Some(file) => file.in_flight += 1,
                None => return self.files.end(token, Err(not_open()), step.into_bytes()),
            }
        }
        self.run(Running { token, step });
    }

    /// Hands a step to the kernel.
    fn run(&mut self, running: Running) {
        let key = self.files.running.insert(running);
        assert!(key < 1 << 24, "at most 2^24 operations on files at once");
        let entry = self.files.entry(key).expect("a file is open while something is done with it");
        self.push(&entry.user_data(user_data(Op::File, ConnId { index: key as u32, generation: 0 })));
    }

    fn start_close(&mut self, token: u64, file: FileId) {
        match self.files.open.get_mut(file) {
            Some(open) if open.closing.is_none() => {
                open.closing = Some(token);
                self.close_if_idle(file);
            }
            _ => self.files.end(token, Err(not_open()), None),
        }
    }

    fn close_if_idle(&mut self, file: FileId) {
        if let Some(open) = self.files.open.get_mut(file)
            && open.in_flight == 0
            && let Some(token) = open.closing
            && let Some(open) = self.files.open.remove(file)
        {
            self.run(Running { token, step: Step::Close(open.fd.into_raw_fd()) });
        }
    }

    /// The kernel has ended a step.
    pub(super) fn file_ended(&mut self, key: u32, result: i32) {
        let Running { token, step } = self.files.running.remove(key as usize);
        if matches!(-result, libc::EINTR | libc::EAGAIN) && !matches!(step, Step::Close(_)) {
            return self.run(Running { token, step });
        }
        let file = step.file();
        let result =
            if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
        match (step, result) {
            (step, Err(error)) => self.files.end(token, Err(error), step.into_bytes()),
            (Step::Write { file, offset, bytes, done, sync }, Ok(more)) => {
                match written(done, more, bytes.len(), self.files.is_direct(file)) {
                    Progress::From(done) => {
                        let step = Step::Write { file, offset, bytes, done, sync };
                        return self.run(Running { token, step });
                    }
                    Progress::Complete => self.files.end(token, Ok(bytes.len()), Some(bytes)),
                    Progress::Stuck => {
                        self.files.end(token, Err(io::ErrorKind::WriteZero.into()), Some(bytes))
                    }
                }
            }
            (Step::Read { file, offset, mut bytes, done }, Ok(more)) => {
                match read(done, more, bytes.len(), self.files.is_direct(file)) {
                    Progress::From(done) => {
                        return self.run(Running { token, step: Step::Read { file, offset, bytes, done } });
                    }
                    _ => {
                        bytes.resize(done + more);
                        self.files.end(token, Ok(done + more), Some(bytes));
                    }
                }
            }
            (Step::Open { options, .. }, Ok(fd)) => {
                // SAFETY: the kernel has just made this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                let file = OpenFile { fd, direct: options.direct, in_flight: 0, closing: None };
                let result = self.files.open.insert(file).map(|file| file.0 as usize);
                self.files.end(token, result, None);
            }
            (Step::OpenDirectory(_), Ok(fd)) => {
                // SAFETY: the kernel has just made this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                return self.run(Running { token, step: Step::SyncDirectory(fd) });
            }
            (_, Ok(_)) => self.files.end(token, Ok(0), None),
        }
        if let Some(file) = file {
            if let Some(open) = self.files.open.get_mut(file) {
                open.in_flight -= 1;
            }
            self.close_if_idle(file);
        }
    }

    /// Tells what has ended.
    #[inline]
    pub(super) fn tell_files(&mut self, events: &mut Vec<Event>) {
        events.extend(self.files.ended.drain(..).map(Event::File));
    }

    /// Waits until the kernel has let go of all buffers; what it does not let go of is never freed.
    pub(super) fn part_with_files(&mut self) {
        let limit_ns = clock::monotonic_ns() + PARTING_NS;
        while self.enabled && !self.files.running.is_empty() && clock::monotonic_ns() < limit_ns {
            let moment = Timespec::from(Duration::from_millis(100));
            let entered = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&moment));
            if super::tolerate(entered).is_err() {
                break;
            }
            for entry in self.ring.completion() {
                if let (Op::File, id) = split_user_data(entry.user_data()) {
                    self.files.running.remove(id.index as usize);
                }
            }
        }
        if self.enabled && !self.files.running.is_empty() {
            mem::forget(mem::take(&mut self.files.running));
        }
    }
}
