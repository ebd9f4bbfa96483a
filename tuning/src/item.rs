//! What an item is, and what looking at it finds.
//!
//! An item is one implementation of [`Item`] and one line in the table of its group; nothing else names it.

use serde::Serialize;

use crate::host::Host;
use crate::value::Form;

/// One thing about a host that bears on latency or throughput.
pub trait Item: Sync {
    /// What it is called on the command line.
    fn name(&self) -> &'static str;
    /// Where it stands in a report.
    fn group(&self) -> Group;
    /// What it is, in a line.
    fn about(&self) -> &'static str;
    /// Looks at it. Never fails: what cannot be read is [`Status::Unknown`].
    fn check(&self, host: &Host) -> Finding;
}

/// An item that a function looks at.
pub struct Computed {
    /// See [`Item::name`].
    pub name: &'static str,
    /// See [`Item::group`].
    pub group: Group,
    /// See [`Item::about`].
    pub about: &'static str,
    /// See [`Item::check`].
    pub check: fn(&Host) -> Finding,
}

impl Item for Computed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn group(&self) -> Group {
        self.group
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn check(&self, host: &Host) -> Finding {
        (self.check)(host)
    }
}

/// Parts of a report, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Who else runs on the shards' cores.
    Isolation,
    /// Clocks and sleep of the cores.
    Power,
    /// Where cores, memory and NIC lie.
    Topology,
    /// Interrupts and the NIC's queues.
    Interrupts,
    /// Pages.
    Memory,
    /// What a process may have.
    Limits,
    /// Sockets and TCP.
    Network,
    /// The rest of the kernel.
    Kernel,
    /// RDMA devices.
    Rdma,
}

impl Group {
    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Isolation => "Isolation",
            Group::Power => "Power",
            Group::Topology => "Topology",
            Group::Interrupts => "Interrupts and NIC",
            Group::Memory => "Memory",
            Group::Limits => "Limits",
            Group::Network => "Network",
            Group::Kernel => "Kernel",
            Group::Rdma => "RDMA",
        }
    }
}

/// How an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As the profile wants it, or the profile does not care.
    Ok,
    /// Otherwise than the profile wants it.
    Differs,
    /// The host does not tell.
    Unknown,
    /// This host has no such thing.
    NotApplicable,
}

/// How a difference can be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// There is nothing to mend, or no known way.
    None,
    /// `fulmar tune apply` does it, and `undo` takes it back.
    Apply,
    /// By somebody who knows what else depends on it.
    ByHand,
    /// With a boot parameter.
    Reboot,
}

/// A file to be written, so that it can be put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The file, as on the host.
    pub path: String,
    /// How it writes its value.
    pub form: Form,
    /// What it holds.
    pub found: String,
    /// What it should hold.
    pub wanted: String,
}

impl Change {
    /// A change of `path` from `found` to `wanted`.
    pub fn new(
        path: impl Into<String>,
        form: Form,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) -> Self {
        Change { path: path.into(), form, found: found.into(), wanted: wanted.into() }
    }
}

/// What looking at an item found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it stands.
    pub status: Status,
    /// What is there; for what is unknown or not applicable, why.
    pub found: String,
    /// What the profile wants.
    pub wanted: String,
    /// Why, in a sentence.
    pub why: String,
    /// How it can be mended.
    pub remedy: Remedy,
    /// Commands that mend it.
    pub commands: Vec<String>,
    /// Files that `apply` would write.
    pub changes: Vec<Change>,
}

/// Stands for what is wanted where the profile does not care.
pub const ANY: &str = "any";

impl Finding {
    fn new(status: Status, found: String, wanted: String) -> Self {
        let (why, commands, changes) = (String::new(), Vec::new(), Vec::new());
        Finding { status, found, wanted, why, remedy: Remedy::None, commands, changes }
    }

    /// As wanted, or not.
    pub fn compared(fine: bool, found: impl Into<String>, wanted: impl Into<String>) -> Self {
        Finding::new(if fine { Status::Ok } else { Status::Differs }, found.into(), wanted.into())
    }

    /// The profile does not care.
    pub fn any(found: impl Into<String>) -> Self {
        Finding::new(Status::Ok, found.into(), ANY.into())
    }

    /// The host does not tell; `reason` says what is missing.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Finding::new(Status::Unknown, reason.into(), ANY.into())
    }

    /// The host has no such thing; `reason` says why.
    pub fn not_applicable(reason: impl Into<String>) -> Self {
        Finding::new(Status::NotApplicable, reason.into(), ANY.into())
    }

    /// Adds the reason.
    pub fn why(self, why: impl Into<String>) -> Self {
        Finding { why: why.into(), ..self }
    }

    /// Adds what is wanted, where the status does not come from comparing.
    pub fn wanting(self, wanted: impl Into<String>) -> Self {
        Finding { wanted: wanted.into(), ..self }
    }

    /// Adds files to write and the commands that would do the same, if something differs.
    pub fn apply(self, changes: Vec<Change>, commands: Vec<String>) -> Self {
        let changes: Vec<Change> =
            changes.into_iter().filter(|change| change.found != change.wanted).collect();
        match self.status {
            Status::Differs if changes.is_empty() => self,
            Status::Differs => Finding { remedy: Remedy::Apply, changes, commands, ..self },
            _ => self,
        }
    }

    /// Adds commands for somebody to decide on, if something differs or is unknown.
    pub fn by_hand<C: Into<String>>(self, commands: impl IntoIterator<Item = C>) -> Self {
        self.mended(Remedy::ByHand, commands)
    }

    /// Adds boot parameters, if something differs.
    pub fn reboot(self, parameters: impl std::fmt::Display) -> Self {
        self.mended(Remedy::Reboot, [format!("boot parameter {parameters}")])
    }

    fn mended<C: Into<String>>(self, remedy: Remedy, commands: impl IntoIterator<Item = C>) -> Self {
        match self.status {
            Status::Ok | Status::NotApplicable => self,
            _ => Finding { remedy, commands: commands.into_iter().map(Into::into).collect(), ..self },
        }
    }
}
