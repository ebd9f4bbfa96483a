//! The files of a host, beneath a root that can be any directory.
//!
//! 1. Paths are given as on the host (`/proc/cmdline`) and looked up beneath the root.
//! 2. Reading yields `None` for what is missing, unreadable or not text; at most [`MAX_READ_BYTES`] are read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Most bytes read of a file; longer ones are cut. `/proc/cpuinfo` of a thousand CPUs fits.
pub const MAX_READ_BYTES: u64 = 8 << 20;

/// Most entries listed of a directory.
pub const MAX_ENTRIES: usize = 65_536;

/// Where `/proc` and `/sys` are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    base: PathBuf,
}

impl Default for Root {
    fn default() -> Self {
        Root::new("/")
    }
}

impl Root {
    /// The host whose files lie beneath `base`; `/` is this host.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Root { base: base.into() }
    }

    /// Whether this is the host itself.
    pub fn is_host(&self) -> bool {
        self.base == Path::new("/")
    }

    /// Where the host's `path` lies here.
    pub fn path(&self, path: &str) -> PathBuf {
        self.base.join(path.trim_start_matches('/'))
    }

    /// The text of a file, without blanks around it.
    pub fn read(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path)).ok()?.take(MAX_READ_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        Some(text.trim().to_owned())
    }

    /// A file that holds one number.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// Whether there is such a file or directory.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The names in a directory, numbers in them in numerical order; none where it is missing.
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten().take(MAX_ENTRIES);
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by(|left, right| order_key(left).cmp(&order_key(right)).then_with(|| left.cmp(right)));
        names
    }

    /// The last component of what a symbolic link points at, as `device/driver` does in sysfs.
    pub fn link_name(&self, path: &str) -> Option<String> {
        fs::read_link(self.path(path)).ok()?.file_name()?.to_str().map(str::to_owned)
    }

    /// Writes `value` to a file that exists, in one write, as `/proc` and `/sys` want it.
    ///
    /// # Errors
    /// The system's; the kernel refuses values that it does not take.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        // What is shorter than before leaves nothing behind in a file that is not the kernel's.
        let mut file = OpenOptions::new().write(true).truncate(true).open(self.path(path))?;
        file.write_all(format!("{value}\n").as_bytes())
    }

    /// Whether a file could be written, found out without writing.
    ///
    /// # Errors
    /// The system's reason why not.
    pub fn writable(&self, path: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(path)).map(drop)
    }
}

/// Orders `cpu2` before `cpu10`: the text before the first digits, and their number.
fn order_key(name: &str) -> (&str, u64) {
    let start = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let digits: &str = &name[start..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    (&name[..start], digits[..end].parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_not_text_is_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("text"), " 12 \n").unwrap();
        fs::write(directory.path().join("bytes"), [0xff, 0xfe]).unwrap();
        let root = Root::new(directory.path());
        assert_eq!(root.read("/text").as_deref(), Some("12"));
        assert_eq!(root.number("/text"), Some(12));
        assert_eq!(root.read("/bytes"), None);
        assert_eq!(root.read("/missing"), None);
        assert!(root.list("/missing").is_empty());
    }

    #[test]
    fn names_are_listed_by_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu2", "cpufreq", "cpu0"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(Root::new(directory.path()).list("/"), ["cpu0", "cpu2", "cpu10", "cpufreq"]);
    }

    #[test]
    fn writing_never_creates_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        assert_eq!(root.write("/new", "1").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!root.exists("/new"));
    }
}
