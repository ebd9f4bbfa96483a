//! Replaces a small file: whatever happens, a power cut too, the old one or the new one is there and whole; when it is done
//! it is the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

/// What changes when a file does.
pub(crate) type Stamp = Option<(SystemTime, u64, u64)>;

/// A file's stamp; none if it is not there.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// What it takes. Tests have another one, which forgets what was not synced.
pub(crate) trait Files {
    fn is_there(&self, path: &Path) -> bool;
    /// A directory that only its owner looks into.
    fn make_directory(&mut self, path: &Path) -> io::Result<()>;
    /// A new file, or one that is emptied, that only its owner reads.
    fn write(&mut self, path: &Path, contents: &[u8]) -> io::Result<()>;
    /// What the file or the directory holds is on the disk.
    fn sync(&mut self, path: &Path) -> io::Result<()>;
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// The system's.
pub(crate) struct SystemFiles;

/// Replaces a file, or makes it and its directories. Nothing is left beside it.
pub(crate) fn replace(files: &mut impl Files, path: &Path, contents: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    make_directories(files, directory)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".new.{}", std::process::id()));
    let new = directory.join(name);
    let renamed =
        files.write(&new, contents).and_then(|()| files.sync(&new)).and_then(|()| files.rename(&new, path));
    if renamed.is_err() {
        let _ = files.remove(&new);
    }
    renamed?;
    files.sync(directory)
}

fn make_directories(files: &mut impl Files, directory: &Path) -> io::Result<()> {
    if files.is_there(directory) {
        return Ok(());
    }
    let parent = directory_of(directory);
    make_directories(files, parent)?;
    files.make_directory(directory)?;
    files.sync(parent)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Files for SystemFiles {
    fn is_there(&self, path: &Path) -> bool {
        path.exists()
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            // Somebody else was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made,
        }
    }

    fn write(&mut self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(contents)
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;

    use super::*;

    /// A disk that forgets what was not synced, and fails at a step.
    #[derive(Default)]
    struct Forgetful {
        /// What names lead to, as one sees it, and as it is on the disk.
        names: BTreeMap<PathBuf, usize>,
        names_on_disk: BTreeMap<PathBuf, usize>,
        /// What files hold, as one sees it, and as it is on the disk.
        files: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        directories: BTreeSet<PathBuf>,
        directories_on_disk: BTreeSet<PathBuf>,
        steps_left: usize,
        is_cut: bool,
    }

    impl Forgetful {
        fn with(path: &str, contents: &[u8]) -> Self {
            let mut disk = Forgetful { steps_left: usize::MAX, ..Forgetful::default() };
            disk.directories.insert("/".into());
            disk.directories_on_disk = disk.directories.clone();
            replace(&mut disk, Path::new(path), contents).unwrap();
            disk
        }

        fn step(&mut self) -> io::Result<()> {
            if self.steps_left == 0 {
                return Err(io::Error::other("the power is gone"));
            }
            self.steps_left -= 1;
            Ok(())
        }

        /// What may be found under a name after a power cut: with the names that were synced, and with those that were not.
        fn found_after_cut(&self, path: &str) -> [Option<Vec<u8>>; 2] {
            let mut parents = Path::new(path).ancestors().skip(1);
            let is_reachable = parents.all(|parent| self.directories_on_disk.contains(parent));
            [&self.names_on_disk, &self.names].map(|names| {
                let file = names.get(Path::new(path)).filter(|_| is_reachable)?;
                Some(self.files[*file].1.clone().unwrap_or_default())
            })
        }
    }

    impl Files for Forgetful {
        fn is_there(&self, path: &Path) -> bool {
            self.directories.contains(path)
        }

        fn make_directory(&mut self, path: &Path) -> io::Result<()> {
            self.step()?;
            self.directories.insert(path.into());
            Ok(())
        }

        fn write(&mut self, path: &Path, contents: &[u8]) -> io::Result<()> {
            self.step()?;
            self.files.push((contents.to_vec(), None));
            self.names.insert(path.into(), self.files.len() - 1);
            Ok(())
        }

        fn sync(&mut self, path: &Path) -> io::Result<()> {
            self.step()?;
            if let Some(&file) = self.names.get(path) {
                let (contents, on_disk) = &mut self.files[file];
                *on_disk = Some(contents.clone());
                return Ok(());
            }
            let is_within = |name: &&PathBuf| name.parent() == Some(path);
            self.names_on_disk.retain(|name, _| !is_within(&name));
            let names = self.names.iter().filter(|(name, _)| is_within(name));
            self.names_on_disk.extend(names.map(|(name, file)| (name.clone(), *file)));
            self.directories_on_disk.extend(self.directories.iter().filter(is_within).cloned());
            Ok(())
        }

        fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
            self.step()?;
            let file = self.names.remove(from).unwrap();
            self.names.insert(to.into(), file);
            Ok(())
        }

        fn remove(&mut self, path: &Path) -> io::Result<()> {
            if !self.is_cut {
                self.names.remove(path);
            }
            Ok(())
        }
    }

    #[test]
    fn a_power_cut_leaves_the_old_file_or_the_new_one() {
        const PATH: &str = "/state/fulmar/users";
        for is_cut in [true, false] {
            for steps in 0..10 {
                let mut disk = Forgetful::with(PATH, b"old");
                (disk.steps_left, disk.is_cut) = (steps, is_cut);
                let done = replace(&mut disk, Path::new(PATH), b"new");
                for found in disk.found_after_cut(PATH) {
                    let found = found.expect("there is a file");
                    assert!(found == b"new" || found == b"old" && done.is_err(), "{steps} steps: {found:?}");
                }
                assert!(is_cut || disk.names.len() == 1, "nothing is left beside it");
                assert_eq!(done.is_ok(), steps >= 4);
            }
        }
    }

    #[test]
    fn a_file_in_a_new_directory_is_found_after_a_power_cut() {
        let disk = Forgetful::with("/state/fulmar/users", b"new");
        assert_eq!(
            disk.found_after_cut("/state/fulmar/users"),
            [Some(b"new".to_vec()), Some(b"new".to_vec())]
        );
    }
}
