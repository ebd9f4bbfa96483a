//! Files that make a tuning last: units, sysctl, tuned, limits, udev.
//!
//! 1. What they set comes from the tables that `check` goes by.
//! 2. Without CPUs they say nothing of a host and are the same everywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cpus::CpuSet;
use crate::items::idle::SHALLOW_US;
use crate::items::limits::{LOCKED_MIB, SERVICE_OPEN_FILES};
use crate::items::power::{ENERGY_PREFERENCE, GOVERNOR};
use crate::items::settings::{SETTINGS, Wanted};
use crate::profile::Profile;

/// A file, by where it belongs beneath `/etc`.
#[derive(Debug, PartialEq, Eq)]
pub struct Generated {
    /// For example `sysctl.d/60-fulmar.conf`.
    pub path: String,
    /// Its text.
    pub content: String,
}

/// CPUs that files are written for.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Where shards run.
    pub shards: CpuSet,
    /// All that the broker may use, shards' and others.
    pub all: CpuSet,
}

/// All files for a profile, for these CPUs if given.
pub fn generate(profile: Profile, placement: Option<&Placement>) -> Vec<Generated> {
    let file = |path: String, content: String| Generated { path, content };
    vec![
        file("systemd/system/fulmar.service".to_owned(), service(profile)),
        file("systemd/system/fulmar.service.d/cpus.conf".to_owned(), cpus(placement)),
        file(
            "systemd/system/fulmar.service.d/rdma.conf".to_owned(),
            include_str!("templates/rdma.conf").to_owned(),
        ),
        file("sysusers.d/fulmar.conf".to_owned(), include_str!("templates/sysusers.conf").to_owned()),
        file("sysctl.d/60-fulmar.conf".to_owned(), sysctl(profile)),
        file(format!("tuned/fulmar-{profile}/tuned.conf"), tuned(profile, placement)),
        file("security/limits.d/60-fulmar.conf".to_owned(), limits()),
        file("udev/rules.d/60-fulmar-rdma.rules".to_owned(), include_str!("templates/rdma.rules").to_owned()),
    ]
}

fn service(profile: Profile) -> String {
    let (idle, nice) = match profile {
        Profile::Latency => ("spin", "Nice=-10\n"),
        Profile::Throughput => ("adaptive", "Nice=-10\n"),
        Profile::Shared => ("adaptive", ""),
    };
    include_str!("templates/fulmar.service")
        .replace("@IDLE@", idle)
        .replace("@OPEN_FILES@", &SERVICE_OPEN_FILES.to_string())
        .replace("@LOCKED@", &format!("{LOCKED_MIB}M"))
        .replace("@NICE@\n", &format!("{nice}\n"))
}

fn cpus(placement: Option<&Placement>) -> String {
    let head = "# Where the shards run. CPUAffinity has all CPUs that the broker may use: with isolcpus it would otherwise\n\
                # see only those that are not isolated. The shards pin themselves.\n";
    let lines = |mark: &str, all: &str, shards: &str, count: &str| {
        format!(
            "[Service]\n{mark}CPUAffinity={all}\n{mark}Environment=FULMAR_CPU_AFFINITY={shards}\n\
             {mark}Environment=FULMAR_SHARDS={count}\n"
        )
    };
    match placement {
        Some(Placement { shards, all }) => {
            head.to_owned() + &lines("", &all.to_string(), &shards.to_string(), &shards.len().to_string())
        }
        None => {
            let example = "# An example: `fulmar tune files --cpus 1-7` writes it for those CPUs.\n";
            head.to_owned() + example + &lines("#", "0-7", "1-7", "7")
        }
    }
}

fn sysctl(profile: Profile) -> String {
    let mut text = format!("# Fulmar, profile {profile}: {}.\n", profile.summary());
    text += "# Sysctl cannot compare: strike a line with 'at least' where the host has more already, 'at most' where less.\n";
    for setting in SETTINGS.iter().filter(|setting| setting.is_sysctl()) {
        let wanted = setting.wanted(profile);
        let Some(value) = wanted.value() else { continue };
        let bound = if wanted.is_bound() { format!(" ({})", wanted.text()) } else { String::new() };
        let options =
            textwrap::Options::new(110).initial_indent("# ").subsequent_indent("# ").break_words(false);
        let options = options.word_splitter(textwrap::WordSplitter::NoHyphenation);
        text += &format!("\n# {}{bound}.\n", setting.about);
        text += &textwrap::fill(setting.why, options);
        text += &format!("\n{} = {value}\n", setting.name);
    }
    text
}

fn tuned(profile: Profile, placement: Option<&Placement>) -> String {
    let mut text = format!("[main]\nsummary=Fulmar, {profile}: {}\n", profile.summary());
    if profile != Profile::Shared {
        text += &format!(
            "\n[cpu]\ngovernor={GOVERNOR}\nenergy_perf_bias={ENERGY_PREFERENCE}\n\
             energy_performance_preference={ENERGY_PREFERENCE}\n"
        );
    }
    if profile == Profile::Latency {
        text += &format!(
            "# On all cores: a program that holds /dev/cpu_dma_latency open, as tuned does, knows no others.\nforce_latency={SHALLOW_US}\n"
        );
    }
    let wanted = SETTINGS.iter().filter_map(|setting| Some((setting, setting.wanted(profile).value()?)));
    let (sysctls, files): (Vec<_>, Vec<_>) = wanted.partition(|(setting, _)| setting.is_sysctl());
    if !files.is_empty() {
        text += "\n[sysfs]\n";
        text.extend(files.iter().map(|(setting, value)| format!("{}={value}\n", setting.path())));
    }
    if !sysctls.is_empty() {
        text += "\n[sysctl]\n";
        text.extend(sysctls.iter().map(|(setting, value)| {
            // tuned leaves what is higher, or lower, already.
            let modifier = match setting.wanted(profile) {
                Wanted::AtLeast(..) => ">",
                Wanted::AtMost(_) => "<",
                _ => "",
            };
            format!("{}={modifier}{value}\n", setting.name)
        }));
    }
    match (profile, placement) {
        (Profile::Latency, Some(Placement { shards, .. })) => {
            text += &boot_parameters("", &shards.to_string())
        }
        (Profile::Latency, None) => text += &boot_parameters("#", "1-7"),
        _ => {}
    }
    text
}

fn boot_parameters(mark: &str, shards: &str) -> String {
    format!(
        "\n# Takes effect with the next boot.\n{mark}[bootloader]\n\
         {mark}cmdline_fulmar=+isolcpus=managed_irq,domain,{shards} nohz_full={shards} rcu_nocbs={shards}\n"
    )
}

fn limits() -> String {
    include_str!("templates/limits.conf")
        .replace("@OPEN_FILES@", &SERVICE_OPEN_FILES.to_string())
        .replace("@LOCKED_KIB@", &(LOCKED_MIB << 10).to_string())
}

/// What became of a file that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileWritten {
    /// It is there now.
    Written,
    /// It was there with this very text.
    AsItWas,
    /// Another text is there and was left alone.
    LeftAlone,
}

/// Writes files beneath `directory`. A file with another text stays unless `force`.
///
/// # Errors
/// The system's, with the path.
pub fn write(
    directory: &Path,
    files: &[Generated],
    force: bool,
) -> Result<Vec<(PathBuf, FileWritten)>, (PathBuf, io::Error)> {
    files
        .iter()
        .map(|file| {
            let path = directory.join(&file.path);
            let result = write_one(&path, &file.content, force).map_err(|error| (path.clone(), error))?;
            Ok((path, result))
        })
        .collect()
}

fn write_one(path: &Path, content: &str, force: bool) -> io::Result<FileWritten> {
    match fs::read(path) {
        Ok(there) if there == content.as_bytes() => return Ok(FileWritten::AsItWas),
        Ok(_) if !force => return Ok(FileWritten::LeftAlone),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)?;
    Ok(FileWritten::Written)
}
