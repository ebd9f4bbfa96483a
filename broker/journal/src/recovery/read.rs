//! The bytes of files in large pieces, one file after the other, read by a thread of their own while those before are
//! looked at.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use fulmar_transport::AlignedBuf;

use crate::disk::Disk;

/// What is read at once.
pub const PIECE_BYTES: usize = 1 << 20;

/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 4;

/// A file, and up to where it is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it is.
    pub path: PathBuf,
    /// Where reading begins: a multiple of [`AlignedBuf::ALIGNMENT`].
    pub from: u64,
    /// Behind the last byte that is wanted.
    pub to: u64,
}

/// Why reading ended early.
#[derive(Debug)]
pub struct Unread {
    /// Which file.
    pub path: PathBuf,
    /// The piece that begins there.
    pub offset: u64,
    /// Why.
    pub error: io::Error,
}

/// A piece of the file of that index.
struct Piece {
    file: usize,
    offset: u64,
    bytes: AlignedBuf,
}

/// Reads the files and shows each piece with the index of its file and its offset; by a thread of its own if `ahead`.
///
/// # Errors
/// A file cannot be opened or read.
pub fn read(
    disk: &dyn Disk,
    files: &[Wanted],
    ahead: bool,
    mut show: impl FnMut(usize, u64, &[u8]),
) -> Result<(), Unread> {
    if !ahead {
        let mut buffer = Some(AlignedBuf::with_capacity(PIECE_BYTES));
        return read_all(disk, files, |piece| {
            show(piece.file, piece.offset, &piece.bytes);
            buffer = Some(piece.bytes);
            buffer.take()
        });
    }
    thread::scope(|scope| {
        let (pieces, coming) = sync_channel(PIECES_AHEAD);
        let (used, returned) = channel();
        (0..PIECES_AHEAD).for_each(|_| {
            used.send(AlignedBuf::with_capacity(PIECE_BYTES)).expect("its other end is here");
        });
        let reader = scope.spawn(move || read_ahead(disk, files, &pieces, &returned));
        for Piece { file, offset, bytes } in coming {
            show(file, offset, &bytes);
            // The reader may have ended.
            let _ = used.send(bytes);
        }
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn read_ahead(
    disk: &dyn Disk,
    files: &[Wanted],
    pieces: &SyncSender<Piece>,
    returned: &Receiver<AlignedBuf>,
) -> Result<(), Unread> {
    let mut waiting: Vec<AlignedBuf> = Vec::new();
    read_all(disk, files, |piece| {
        pieces.send(piece).ok()?;
        waiting.extend(returned.try_iter());
        waiting.pop().or_else(|| returned.recv().ok())
    })
}

/// Reads piece after piece; `take` gives the memory for the next one, or nothing if no more is wanted.
fn read_all(
    disk: &dyn Disk,
    files: &[Wanted],
    mut take: impl FnMut(Piece) -> Option<AlignedBuf>,
) -> Result<(), Unread> {
    let mut buffer = AlignedBuf::with_capacity(PIECE_BYTES);
    for (index, file) in files.iter().enumerate() {
        let failed = |offset, error| Unread { path: file.path.clone(), offset, error };
        let opened = disk.open(&file.path).map_err(|error| failed(file.from, error))?;
        let mut offset = file.from;
        while offset < file.to {
            opened.read_at(offset, &mut buffer).map_err(|error| failed(offset, error))?;
            let length = buffer.len() as u64;
            if length == 0 {
                break;
            }
            buffer.resize(length.min(file.to - offset) as usize);
            let Some(next) = take(Piece { file: index, offset, bytes: buffer }) else { return Ok(()) };
            buffer = next;
            offset += length;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SystemDisk;

    #[test]
    fn all_of_the_files_is_shown_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let lengths = [0, 5, 4096, PIECE_BYTES, 7 * PIECE_BYTES + 12_345];
        let files: Vec<Wanted> = lengths
            .iter()
            .enumerate()
            .map(|(index, length)| {
                let path = directory.path().join(index.to_string());
                let bytes: Vec<u8> = (0..*length).map(|at| (at / 7 + index) as u8).collect();
                SystemDisk.open_writable(&path).unwrap().write_at(0, &bytes).unwrap();
                Wanted { path, from: 0, to: *length as u64 }
            })
            .collect();
        for ahead in [false, true] {
            let mut found = vec![Vec::new(); lengths.len()];
            read(&SystemDisk, &files, ahead, |file, offset, bytes| {
                assert_eq!(offset, found[file].len() as u64);
                found[file].extend_from_slice(bytes);
            })
            .unwrap();
            for (file, bytes) in files.iter().zip(&found) {
                assert!(std::fs::read(&file.path).unwrap() == *bytes);
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing");
        for ahead in [false, true] {
            let files = [Wanted { path: path.clone(), from: 0, to: 1 }];
            let unread = read(&SystemDisk, &files, ahead, |_, _, _| panic!("nothing to show")).unwrap_err();
            assert_eq!((unread.path, unread.offset), (path.clone(), 0));
        }
    }
}
