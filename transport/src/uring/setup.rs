//! Making a ring, and saying what refused it.

use std::fmt;
use std::fs;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::Config;

/// Why io_uring cannot be used here: the setting and the way out.
#[derive(Debug)]
pub struct UringRefused {
    reason: String,
    source: Option<io::Error>,
}

impl fmt::Display for UringRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UringRefused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl UringRefused {
    fn new(reason: impl Into<String>) -> Self {
        UringRefused { reason: reason.into(), source: None }
    }

    /// Reads the system's settings to tell which of them is behind `error`.
    pub(super) fn from_setup(error: io::Error) -> Self {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let reason = explain(error.raw_os_error(), disabled.trim(), &status, release.trim());
        UringRefused { reason, source: Some(error) }
    }

    pub(super) fn from_buffers(error: io::Error) -> Self {
        UringRefused { reason: "the kernel refuses a ring of provided buffers".into(), source: Some(error) }
    }
}

fn explain(error: Option<i32>, disabled: &str, status: &str, release: &str) -> String {
    let filtered =
        status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"));
    match error {
        Some(libc::EPERM | libc::EACCES) if disabled == "1" || disabled == "2" => format!(
            "sysctl kernel.io_uring_disabled={disabled} refuses io_uring; `sysctl kernel.io_uring_disabled=0` allows it"
        ),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) if filtered => {
            "a seccomp filter (usually the container's profile) refuses io_uring_setup".into()
        }
        Some(libc::EPERM | libc::EACCES) => "a security policy refuses io_uring_setup".into(),
        Some(libc::ENOSYS) => "the kernel was built without io_uring (CONFIG_IO_URING)".into(),
        Some(libc::ENOMEM) => {
            "RLIMIT_MEMLOCK or the memory limit is too small for a ring; raise `ulimit -l`".into()
        }
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is left for a ring; raise `ulimit -n`".into(),
        Some(libc::EINVAL) => format!("kernel {release} lacks a feature of io_uring; 6.1 or later is needed"),
        _ => "io_uring cannot be set up".into(),
    }
}

/// A ring that is still disabled, so that the thread which enables it becomes its only issuer.
pub(super) fn build(config: &Config) -> Result<IoUring, UringRefused> {
    let entries = config.ring_entries.next_power_of_two().clamp(8, 32_768);
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_r_disabled()
        .setup_clamp()
        .setup_cqsize(entries.saturating_mul(4))
        .dontfork()
        .build(entries)
        .map_err(UringRefused::from_setup)?;
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(UringRefused::new("the kernel's io_uring lacks EXT_ARG or NODROP"));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(UringRefused::from_setup)?;
    let needed = [
        ("ACCEPT", opcode::Accept::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("OPENAT", opcode::OpenAt::CODE),
        ("WRITE", opcode::Write::CODE),
        ("READ", opcode::Read::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
        ("CLOSE", opcode::Close::CODE),
        ("UNLINKAT", opcode::UnlinkAt::CODE),
        ("RENAMEAT", opcode::RenameAt::CODE),
    ];
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => {
            Err(UringRefused::new(format!("the kernel's io_uring lacks the operation {name}")))
        }
        None => Ok(ring),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_refuses_is_named() {
        let seccomp = "Name:\tfulmar\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let free = "Name:\tfulmar\nSeccomp:\t0\n";
        assert!(explain(Some(libc::EPERM), "2", seccomp, "6.8").contains("kernel.io_uring_disabled=2"));
        assert!(explain(Some(libc::EPERM), "0", seccomp, "6.8").contains("seccomp"));
        assert!(explain(Some(libc::ENOSYS), "", seccomp, "6.8").contains("seccomp"));
        assert!(explain(Some(libc::ENOSYS), "", free, "5.0").contains("CONFIG_IO_URING"));
        assert!(explain(Some(libc::EPERM), "0", free, "6.8").contains("security policy"));
        assert!(explain(Some(libc::EINVAL), "0", free, "5.10.0").contains("kernel 5.10.0"));
        assert!(explain(Some(libc::ENOMEM), "0", free, "6.8").contains("ulimit -l"));
    }
}
