//! What every transport does with files.

use std::io;
use std::path::PathBuf;

use fulmar_transport::file::{FileDone, FileId, FileOperation, OpenOptions, is_direct_refused};
use fulmar_transport::{AlignedBuf, Config, Transport, Wait};

use crate::world::{World, pattern, tiny, until};

const BLOCK: usize = AlignedBuf::ALIGNMENT;

macro_rules! world {
    ($W:ty) => {
        match <$W>::new(Config::default(), Config::default()) {
            Some(world) => world,
            None => return,
        }
    };
}

pub fn buffer(bytes: &[u8]) -> AlignedBuf {
    let mut buffer = AlignedBuf::with_capacity(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer
}

/// Does one operation at the server and gives its end.
pub fn perform<W: World>(world: &mut W, operation: FileOperation) -> FileDone {
    const TOKEN: u64 = 1 << 40;
    world.sides().0.transport.file(TOKEN, operation);
    until(world, "an operation on a file", |server, _| server.files.contains_key(&TOKEN));
    world.sides().0.files.remove(&TOKEN).expect("ended")
}

pub fn open<W: World>(world: &mut W, path: &str, options: OpenOptions) -> io::Result<FileId> {
    let path = world.directory().join(path);
    let done = perform(world, FileOperation::Open(path, options));
    assert!(done.bytes.is_none());
    done.opened()
        .map_err(|error| io::Error::from_raw_os_error(error.raw_os_error().expect("a number")))
        .inspect(|file| assert_eq!(done.result.as_ref().ok(), Some(&(file.0 as usize))))
}

const WRITE: OpenOptions = OpenOptions { write: true, direct: false };
const READ: OpenOptions = OpenOptions { write: false, direct: false };

pub fn write<W: World>(world: &mut W, file: FileId, offset: u64, bytes: &[u8], sync: bool) {
    let done = perform(world, FileOperation::Write { file, offset, bytes: buffer(bytes), sync });
    assert_eq!(done.result.expect("a write"), bytes.len());
    assert_eq!(&done.bytes.expect("the buffer")[..], bytes);
}

pub fn read<W: World>(world: &mut W, file: FileId, offset: u64, most: usize) -> Vec<u8> {
    let bytes = AlignedBuf::with_capacity(most);
    let done = perform(world, FileOperation::Read { file, offset, bytes });
    let bytes = done.bytes.expect("the buffer");
    assert_eq!(done.result.expect("a read"), bytes.len());
    bytes.to_vec()
}

fn number(done: FileDone) -> Option<i32> {
    done.result.expect_err("an error").raw_os_error()
}

fn path<W: World>(world: &mut W, name: &str) -> PathBuf {
    world.directory().join(name)
}

pub fn a_file_keeps_what_is_written<W: World>() {
    let mut world = world!(W);
    let file = open(&mut world, "file", WRITE).expect("made");
    let text = pattern(3 * BLOCK + 100);
    write(&mut world, file, 0, &text, false);
    assert_eq!(perform(&mut world, FileOperation::Sync(file)).result.expect("a sync"), 0);
    write(&mut world, file, 5_000, b"in between", true);
    let expected = [&text[..5_000], b"in between", &text[5_010..]].concat();
    assert_eq!(read(&mut world, file, 0, 4 * BLOCK), expected, "to the end, not to the buffer's");
    assert_eq!(read(&mut world, file, 5_000, BLOCK), expected[5_000..5_000 + BLOCK]);
    assert_eq!(read(&mut world, file, 1 << 30, BLOCK), b"");
    assert_eq!(perform(&mut world, FileOperation::Close(file)).result.expect("closed"), 0);
    let file = open(&mut world, "file", READ).expect("there");
    assert_eq!(read(&mut world, file, 0, 4 * BLOCK), expected);
    let bytes = buffer(b"no");
    let refused = perform(&mut world, FileOperation::Write { file, offset: 0, bytes, sync: false });
    assert_eq!(number(refused), Some(libc::EBADF), "it was opened for reading");
}

pub fn what_is_not_there_is_told<W: World>() {
    let mut world = world!(W);
    assert_eq!(open(&mut world, "none", READ).expect_err("nothing").raw_os_error(), Some(libc::ENOENT));
    assert_eq!(open(&mut world, "no/ne", WRITE).expect_err("nowhere").raw_os_error(), Some(libc::ENOENT));
    let (none, other) = (path(&mut world, "none"), path(&mut world, "other"));
    assert_eq!(number(perform(&mut world, FileOperation::Remove(none.clone()))), Some(libc::ENOENT));
    assert_eq!(number(perform(&mut world, FileOperation::Rename(none.clone(), other))), Some(libc::ENOENT));
    assert_eq!(number(perform(&mut world, FileOperation::SyncDirectory(none))), Some(libc::ENOENT));
    let file = open(&mut world, "file", WRITE).expect("made");
    assert_eq!(perform(&mut world, FileOperation::Close(file)).result.expect("closed"), 0);
    for file in [file, FileId(77)] {
        let write = FileOperation::Write { file, offset: 0, bytes: buffer(b"kept"), sync: true };
        let done = perform(&mut world, write);
        assert_eq!(&done.bytes.as_ref().expect("the buffer")[..], b"kept");
        assert_eq!(number(done), Some(libc::EBADF));
        let read = FileOperation::Read { file, offset: 0, bytes: AlignedBuf::with_capacity(1) };
        assert_eq!(number(perform(&mut world, read)), Some(libc::EBADF));
        assert_eq!(number(perform(&mut world, FileOperation::Sync(file))), Some(libc::EBADF));
        assert_eq!(number(perform(&mut world, FileOperation::Allocate(file, 1))), Some(libc::EBADF));
        assert_eq!(number(perform(&mut world, FileOperation::Close(file))), Some(libc::EBADF));
    }
}

pub fn closing_waits_for_what_is_under_way<W: World>() {
    let mut world = world!(W);
    let file = open(&mut world, "file", WRITE).expect("made");
    let text = pattern(50 * BLOCK);
    let transport = &mut world.sides().0.transport;
    for (token, piece) in text.chunks(BLOCK).enumerate() {
        let (offset, bytes) = ((token * BLOCK) as u64, buffer(piece));
        transport.file(token as u64, FileOperation::Write { file, offset, bytes, sync: token % 7 == 0 });
    }
    transport.file(50, FileOperation::Close(file));
    transport.file(51, FileOperation::Sync(file));
    transport.file(52, FileOperation::Close(file));
    until(&mut world, "everything", |server, _| server.files.len() == 53);
    let (server, _) = world.sides();
    for token in 0..50 {
        assert_eq!(*server.files[&token].result.as_ref().expect("a write"), BLOCK);
    }
    assert_eq!(*server.files[&50].result.as_ref().expect("closed"), 0);
    for token in [51, 52] {
        let error = server.files[&token].result.as_ref().expect_err("it is being closed");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
    let last = server.files_in_order.iter().position(|token| *token == 50);
    let writes = server.files_in_order.iter().filter(|token| **token < 50).count();
    assert!(last.is_some_and(|last| server.files_in_order[..last].iter().filter(|at| **at < 50).count() == writes));
    let file = open(&mut world, "file", READ).expect("there");
    assert_eq!(read(&mut world, file, 0, text.len()), text);
}

pub fn many_operations_end_once_each<W: World>() {
    let Some(mut world) = W::new(tiny(), Config::default()) else { return };
    let files: Vec<_> =
        (0..3).map(|at| open(&mut world, &format!("file{at}"), WRITE).expect("made")).collect();
    let transport = &mut world.sides().0.transport;
    for token in 0..300u64 {
        let (file, offset) = (files[token as usize % 3], token / 3 * BLOCK as u64);
        let bytes = buffer(&[token as u8; BLOCK]);
        transport.file(token, FileOperation::Write { file, offset, bytes, sync: false });
    }
    until(&mut world, "all of them", |server, _| server.files.len() == 300);
    for (at, file) in files.into_iter().enumerate() {
        let text = read(&mut world, file, 0, 101 * BLOCK);
        let expected: Vec<u8> = (0..100).flat_map(|block| [(block * 3 + at) as u8; BLOCK]).collect();
        assert!(text == expected, "file{at}");
    }
}

pub fn names_change<W: World>() {
    let mut world = world!(W);
    let (one, two) = (path(&mut world, "one"), path(&mut world, "two"));
    let first = open(&mut world, "one", WRITE).expect("made");
    let second = open(&mut world, "two", WRITE).expect("made");
    write(&mut world, first, 0, b"first", false);
    write(&mut world, second, 0, b"second", false);
    assert_eq!(perform(&mut world, FileOperation::Rename(one, two.clone())).result.expect("renamed"), 0);
    assert!(open(&mut world, "one", READ).is_err());
    let again = open(&mut world, "two", READ).expect("there");
    assert_eq!(read(&mut world, again, 0, 100), b"first");
    assert_eq!(read(&mut world, second, 0, 100), b"second", "open, but without a name");
    assert_eq!(perform(&mut world, FileOperation::Remove(two)).result.expect("removed"), 0);
    assert!(open(&mut world, "two", READ).is_err());
    write(&mut world, first, 0, b"still", true);
    assert_eq!(read(&mut world, again, 0, 100), b"still");
    let directory = world.directory();
    let synced = perform(&mut world, FileOperation::SyncDirectory(directory));
    assert_eq!(synced.result.expect("synced"), 0);
}

pub fn allocated_space_is_zeros<W: World>() {
    let mut world = world!(W);
    let file = open(&mut world, "file", WRITE).expect("made");
    write(&mut world, file, 0, b"text", false);
    let allocated = perform(&mut world, FileOperation::Allocate(file, 100_000));
    match allocated.result {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
        result => assert_eq!(result.expect("space"), 0),
    }
    let text = read(&mut world, file, 0, 200_000);
    assert!(text.len() == 100_000 && text.starts_with(b"text") && text[4..].iter().all(|byte| *byte == 0));
    perform(&mut world, FileOperation::Allocate(file, 10)).result.expect("nothing to do");
    assert_eq!(read(&mut world, file, 0, 200_000).len(), 100_000, "never shorter");
}

pub fn past_the_page_cache_or_told_so<W: World>() {
    let mut world = world!(W);
    let file = match open(&mut world, "file", OpenOptions { write: true, direct: true }) {
        Ok(file) => file,
        Err(error) => {
            assert!(is_direct_refused(&error), "{error}");
            return;
        }
    };
    let text = pattern(10 * BLOCK);
    write(&mut world, file, 0, &text, true);
    write(&mut world, file, 2 * BLOCK as u64, &text[..BLOCK], false);
    let expected = [&text[..2 * BLOCK], &text[..BLOCK], &text[3 * BLOCK..]].concat();
    assert_eq!(read(&mut world, file, 0, 20 * BLOCK), expected);
    let write = FileOperation::Write { file, offset: 1, bytes: buffer(&text), sync: false };
    assert_eq!(number(perform(&mut world, write)), Some(libc::EINVAL), "no multiple of a block");
    // What others write may end anywhere.
    let other = open(&mut world, "file", WRITE).expect("there");
    self::write(&mut world, other, 10 * BLOCK as u64, b"the end", true);
    assert_eq!(
        read(&mut world, file, 9 * BLOCK as u64, 5 * BLOCK),
        [&expected[9 * BLOCK..], b"the end"].concat()
    );
}

pub fn an_end_ends_a_wait<W: World>() {
    let mut world = world!(W);
    let directory = world.directory();
    let limit = world.sides().0.transport.now_ns() + 10_000_000_000;
    for token in 0..20 {
        let (server, _) = world.sides();
        let name = directory.join(format!("{token}\0"));
        let operation = if token % 4 == 0 {
            FileOperation::Remove(name)
        } else {
            FileOperation::SyncDirectory(directory.clone())
        };
        server.transport.file(token, operation);
        while !world.sides().0.files.contains_key(&token) {
            let (server, _) = world.sides();
            server.turn(Wait::Until(Some(limit)));
            assert!(server.transport.now_ns() < limit, "the end was not told");
            world.advance();
        }
    }
}

pub fn a_transport_may_go_with_operations_under_way<W: World>() {
    for round in 0..10 {
        let mut world = world!(W);
        let file = open(&mut world, "file", WRITE).expect("made");
        write(&mut world, file, 0, &vec![7; 64 * BLOCK], false);
        let (server, _) = world.sides();
        for token in 0..40 {
            let offset = token * BLOCK as u64;
            let operation = match token % 3 {
                0 => FileOperation::Write { file, offset, bytes: buffer(&[7; BLOCK]), sync: true },
                1 => FileOperation::Read { file, offset, bytes: AlignedBuf::with_capacity(9 * BLOCK) },
                _ => FileOperation::Sync(file),
            };
            server.transport.file(token, operation);
        }
        for _ in 0..round {
            server.turn(Wait::Poll);
        }
    }
}
