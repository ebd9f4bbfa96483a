//! The workloads that this program comes with: the files of `bench/workloads`, for the usual questions.

use std::path::Path;

use crate::workload::{Workload, WorkloadError};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../workloads/", $name, ".toml")))),*]
    };
}

/// Name and text of each, in the order in which they are listed.
pub const FILES: &[(&str, &str)] = files![
    "latency-1k",
    "latency-10k",
    "poisson-10k",
    "small-flood",
    "1k-flood",
    "acked-flood",
    "confirms-5k",
    "durable-flood",
    "durable-1k",
    "durable-64k",
    "durable-single",
    "fan-out",
    "fan-in",
    "topic-fanout",
    "direct-1k-keys",
    "request-reply",
    "mixed-sizes",
    "many-connections",
    "slow-consumer",
    "slow-neighbour",
    "backlog-drain",
];

/// All of them.
pub fn all() -> impl Iterator<Item = Workload> {
    FILES.iter().map(|(name, text)| {
        Workload::from_toml(text).unwrap_or_else(|error| panic!("the built-in workload {name}: {error}"))
    })
}

/// The one of a name, or else of a file.
///
/// # Errors
/// There is neither, or it cannot be run.
pub fn find(name: &str) -> Result<Workload, WorkloadError> {
    if let Some((_, text)) = FILES.iter().find(|(known, _)| *known == name) {
        return Workload::from_toml(text);
    }
    let path = Path::new(name);
    if !path.exists() && path.extension().is_none() {
        let known: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        let text =
            format!("no workload {name:?}, and no file of that name; built in are {}", known.join(", "));
        return Err(WorkloadError::Read(text));
    }
    Workload::from_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reads_has_its_files_name_and_says_what_it_asks() {
        for ((name, _), workload) in FILES.iter().zip(all()) {
            assert_eq!(workload.name, *name);
            assert!(workload.description.contains('?'), "{name}: {}", workload.description);
            assert_eq!(find(name).unwrap(), workload);
        }
    }

    #[test]
    fn every_file_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(FILES.iter().any(|(known, _)| *known == name), "{name}");
        }
    }

    #[test]
    fn what_is_neither_known_nor_a_file_is_told_with_what_is() {
        let error = find("no-such").unwrap_err().to_string();
        assert!(error.contains("no-such") && error.contains("small-flood"), "{error}");
        assert!(find("no-such.toml").unwrap_err().to_string().contains("no-such.toml"));
    }
}
