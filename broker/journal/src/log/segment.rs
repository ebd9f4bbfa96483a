//! The segments of a log: those that are full, the one that is appended to, those that will be.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use fulmar_core::journal::Position;
use fulmar_transport::file::{FileId, OpenOptions};

use crate::encodings::Encodings;
use crate::start::{SegmentStart, file_name};
use crate::summary::SegmentSummary;

/// A segment.
pub(crate) struct Segment {
    pub number: u64,
    pub path: PathBuf,
    /// What its codes stand for.
    pub encodings: Rc<Encodings>,
    pub summary: SegmentSummary,
    /// Behind its last record, in bytes.
    pub end: u64,
    /// Length of its file.
    pub file_bytes: u64,
    /// Its file, if open.
    pub file: Option<FileId>,
    /// How it is being opened to be read, if it is.
    pub opening: Option<OpenOptions>,
    /// May be written: it is there, under its name, with space on the disk.
    pub is_ready: bool,
    /// All of its blocks were written before, by records or zeros.
    pub is_filled: bool,
    /// The one before and its end; known once it is begun.
    pub previous: Option<(u64, u64)>,
    /// Number of its first batch.
    pub first_batch: u64,
    /// Those who read it.
    pub readers: u32,
    /// Where the log ended when the last message was retired that somebody needed.
    pub empty_since: Option<Position>,
    /// Behind what says so, since when nothing of it is needed: what took its place has to be stored before it goes.
    pub unneeded_since: Option<Position>,
    /// Becomes another one, or is removed.
    pub is_leaving: bool,
    /// A record in it cannot be read.
    pub is_damaged: bool,
}

impl Segment {
    /// One that is not there yet.
    pub fn new(directory: &Path, number: u64, encodings: &Rc<Encodings>) -> Self {
        Segment {
            number,
            path: directory.join(file_name(number)),
            encodings: Rc::clone(encodings),
            summary: SegmentSummary::default(),
            end: 0,
            file_bytes: 0,
            file: None,
            opening: None,
            is_ready: false,
            is_filled: false,
            previous: None,
            first_batch: 0,
            readers: 0,
            empty_since: None,
            unneeded_since: None,
            is_leaving: false,
            is_damaged: false,
        }
    }

    fn found(directory: &Path, start: SegmentStart) -> Self {
        let encodings = Rc::new(start.encodings);
        let is_empty = start.summary.live_records() == 0;
        Segment {
            summary: start.summary,
            end: start.end,
            file_bytes: start.file_bytes,
            is_ready: true,
            empty_since: is_empty.then_some(Position::NONE),
            unneeded_since: None,
            ..Segment::new(directory, start.number, &encodings)
        }
    }
}

/// The segments of a log.
pub(crate) struct Segments {
    /// Those that are full.
    pub full: BTreeMap<u64, Segment>,
    /// The one that is appended to.
    pub active: Segment,
    /// Those that will be, in order.
    pub upcoming: VecDeque<Segment>,
}

impl Segments {
    pub fn new(
        directory: &Path,
        found: Vec<SegmentStart>,
        first: u64,
        previous: Option<(u64, u64)>,
        encodings: &Rc<Encodings>,
    ) -> Self {
        let full: BTreeMap<_, _> =
            found.into_iter().map(|start| (start.number, Segment::found(directory, start))).collect();
        assert!(
            full.keys().next_back().is_none_or(|last| *last < first),
            "segments found are before new ones"
        );
        let active = Segment { previous, ..Segment::new(directory, first, encodings) };
        Segments { full, active, upcoming: VecDeque::new() }
    }

    /// One that is part of the log.
    #[inline]
    pub fn get(&self, number: u64) -> Option<&Segment> {
        if number == self.active.number { Some(&self.active) } else { self.full.get(&number) }
    }

    /// One that is part of the log.
    #[inline]
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Segment> {
        if number == self.active.number { Some(&mut self.active) } else { self.full.get_mut(&number) }
    }

    /// One that is part of the log, or will be.
    pub fn any_mut(&mut self, number: u64) -> Option<&mut Segment> {
        if let Some(index) = self.upcoming.iter().position(|segment| segment.number == number) {
            return self.upcoming.get_mut(index);
        }
        self.get_mut(number)
    }

    /// Those that are part of the log, in order.
    pub fn in_log(&self) -> impl Iterator<Item = &Segment> {
        self.full.values().chain([&self.active])
    }

    /// All of them, in order.
    pub fn all(&self) -> impl Iterator<Item = &Segment> {
        self.in_log().chain(&self.upcoming)
    }

    /// The first one that is not ready to be written. They become ready in order, so all behind it are not.
    pub fn first_unready(&self) -> Option<u64> {
        let mut later = std::iter::once(&self.active).chain(&self.upcoming);
        let full = self.full.values().rev().take_while(|segment| !segment.is_ready).last();
        full.or_else(|| later.find(|segment| !segment.is_ready)).map(|segment| segment.number)
    }
}
