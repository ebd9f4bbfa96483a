//! Which files a log has, and what their headers say.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use fulmar_transport::AlignedBuf;

use crate::disk::Disk;
use crate::header::{BLOCK_BYTES, InvalidHeader, SegmentHeader};
use crate::recovery::RecoveryError;
use crate::recovery::read::Wanted;
use crate::recovery::scan::Scan;
use crate::scratch::is_page_file;
use crate::start::segment_in_name;

/// The files of one log.
#[derive(Debug, Default)]
pub struct LogFiles {
    /// Those that have been begun as what their names say, in order.
    pub segments: Vec<SegmentFile>,
    /// Those that hold nothing yet, or what another segment held before, with their lengths.
    pub unused: Vec<(PathBuf, u64)>,
    /// Those whose headers cannot be read: torn when they were begun, or damaged.
    pub headless: Vec<HeadlessFile>,
    /// Those of the page file, in which nothing is needed.
    pub pages: Vec<PathBuf>,
}

/// A segment's file.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it begins with.
    pub header: SegmentHeader,
}

/// A file named like a segment whose header cannot be read.
#[derive(Clone, Debug)]
pub struct HeadlessFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// What its name says.
    pub segment: u64,
    /// What is wrong.
    pub why: InvalidHeader,
}

impl LogFiles {
    /// Looks at the files of a directory. Others than segments do not matter.
    ///
    /// # Errors
    /// One cannot be read, or is of a version that is not known.
    pub fn find(disk: &dyn Disk, directory: &Path) -> Result<LogFiles, RecoveryError> {
        let names = match disk.list(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|error| RecoveryError::reading(directory, error))?,
        };
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_in_name(name.to_str()?)).collect();
        numbers.sort_unstable();
        let is_page = |name: &&OsString| name.to_str().is_some_and(is_page_file);
        let pages = names.iter().filter(is_page).map(|name| directory.join(name)).collect();
        let mut files = LogFiles { pages, ..LogFiles::default() };
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
        for segment in numbers {
            let path = directory.join(crate::start::file_name(segment));
            let failed = |error| RecoveryError::reading(&path, error);
            let file = disk.open(&path).map_err(failed)?;
            let bytes = file.length().map_err(failed)?;
            file.read_at(0, &mut block).map_err(failed)?;
            match SegmentHeader::decode(&block) {
                Ok(header) if header.segment == segment => {
                    files.segments.push(SegmentFile { path, bytes, header });
                }
                Ok(_) => files.unused.push((path, bytes)),
                Err(InvalidHeader::Version(version)) => {
                    return Err(RecoveryError::Version { path, version });
                }
                Err(why) => files.headless.push(HeadlessFile { path, bytes, segment, why }),
            }
        }
        Ok(files)
    }

    /// Where the log ended in a segment, if the one that followed it says so.
    pub fn known_end(&self, index: usize) -> Option<u64> {
        let number = self.segments[index].header.segment;
        let next = &self.segments.get(index + 1)?.header;
        (next.previous == number).then_some(next.previous_end)
    }

    /// Whether a segment that was begun says that a file's segment was the one before it.
    pub(crate) fn is_followed(&self, path: &Path) -> bool {
        let number = number_in(path);
        number.is_some() && self.segments.iter().any(|file| Some(file.header.previous) == number)
    }

    /// Whether what a segment lacks at its end may never have been stored: nothing was written behind it by the same run.
    pub fn may_be_torn(&self, index: usize) -> bool {
        let run = self.segments[index].header.run;
        self.segments.get(index + 1).is_none_or(|next| next.header.run != run)
    }

    /// What of a segment has to be read.
    pub(crate) fn wanted(&self, index: usize) -> Wanted {
        let file = &self.segments[index];
        let to = self.known_end(index).map_or(file.bytes, |end| end.min(file.bytes));
        Wanted { path: file.path.clone(), from: BLOCK_BYTES as u64, to }
    }

    /// Begins to read a segment.
    pub(crate) fn scan(&self, index: usize) -> Scan {
        let file = &self.segments[index];
        Scan::new(file.header.segment, file.header.first_batch, self.known_end(index), file.bytes)
    }

    /// Bytes that have to be read.
    pub fn wanted_bytes(&self) -> u64 {
        let wanted = (0..self.segments.len()).map(|index| self.wanted(index));
        wanted.map(|wanted| wanted.to.saturating_sub(wanted.from)).sum()
    }

    /// The highest number that a file has; 0 if there is none.
    pub fn last_number(&self) -> u64 {
        let begun = self.segments.iter().map(|file| file.header.segment);
        let headless = self.headless.iter().map(|file| file.segment);
        let unused = self.unused.iter().filter_map(|(path, _)| number_in(path));
        begun.chain(headless).chain(unused).max().unwrap_or(0)
    }
}

/// The number of the segment that a file is named after.
pub(crate) fn number_in(path: &Path) -> Option<u64> {
    segment_in_name(path.file_name()?.to_str()?)
}
