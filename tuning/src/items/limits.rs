//! What a process may have: of the one that asks, since the broker's are set by whoever starts it.

use std::fmt;

use crate::host::Host;
use crate::item::{Computed, Finding, Group};
use crate::items::rdma;

/// The items of this group that are not single settings.
pub const ITEMS: &[Computed] = &[
    Computed {
        name: "open-files",
        group: Group::Limits,
        about: "Open files that a process may have (of the shell that asks)",
        check: open_files,
    },
    Computed {
        name: "memlock",
        group: Group::Limits,
        about: "Memory that a process may lock (of the shell that asks)",
        check: locked_memory,
    },
];

/// Open files to be had: the connections that a broker takes by itself, twice.
pub const OPEN_FILES: u64 = 131_072;

/// Open files that the service asks for.
pub const SERVICE_OPEN_FILES: u64 = 1_048_576;

/// Memory, in MiB, to be locked where there is no RDMA.
pub const LOCKED_MIB: u64 = 64;

/// A limit as `/proc/self/limits` writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Of(u64),
    Unlimited,
}

impl Limit {
    fn parse(text: &str) -> Option<Limit> {
        match text {
            "unlimited" => Some(Limit::Unlimited),
            _ => text.parse().ok().map(Limit::Of),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Of(value) => value.fmt(f),
            Limit::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// The soft and the hard limit of this name.
fn limit(host: &Host, name: &str) -> Option<(Limit, Limit)> {
    let limits = host.root.read("/proc/self/limits")?;
    let mut values = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    Some((Limit::parse(values.next()?)?, Limit::parse(values.next()?)?))
}

fn open_files(host: &Host) -> Finding {
    let why = "A connection is an open file; Fulmar takes 65,536 connections and raises its own limit as far as the \
               hard one.";
    let Some((soft, hard)) = limit(host, "Max open files") else {
        return Finding::unknown("no limit in /proc/self/limits").why(why);
    };
    Finding::compared(
        hard >= Limit::Of(OPEN_FILES),
        format!("{soft}, hard {hard}"),
        format!("hard at least {OPEN_FILES}"),
    )
    .why(why)
    .by_hand([
        format!("LimitNOFILE={SERVICE_OPEN_FILES} in the service unit (fulmar tune files has one)"),
        format!("ulimit -n {OPEN_FILES} in the shell that starts the broker, as root"),
    ])
}

fn locked_memory(host: &Host) -> Finding {
    let rdma = rdma::is_present(host);
    let why = match rdma {
        true => "RDMA pins all memory that the NIC reads or writes; beyond the limit registering it fails.",
        false => "io_uring pins memory that is registered with it, on older kernels its rings too.",
    };
    let Some((soft, hard)) = limit(host, "Max locked memory") else {
        return Finding::unknown("no limit in /proc/self/limits").why(why);
    };
    let (least, wanted, unit) = match rdma {
        true => (Limit::Unlimited, "unlimited".to_owned(), "infinity".to_owned()),
        false => {
            (Limit::Of(LOCKED_MIB << 20), format!("at least {}", LOCKED_MIB << 20), format!("{LOCKED_MIB}M"))
        }
    };
    Finding::compared(soft >= least, format!("{soft}, hard {hard}"), wanted).why(why).by_hand([
        format!("LimitMEMLOCK={unit} in the service unit (fulmar tune files has one)"),
        "or /etc/security/limits.d for logins, then log in again".to_owned(),
    ])
}
