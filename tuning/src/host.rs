//! The host that items look at: its files, what it is tuned for, where the shards run, which NIC counts.

use std::collections::BTreeMap;

use crate::cpus::CpuSet;
use crate::facts;
use crate::profile::Profile;
use crate::root::Root;

/// Where the kernel keeps what it says of CPUs.
pub const CPU: &str = "/sys/devices/system/cpu";

/// Most shards that the broker starts by itself.
const MOST_SHARDS: usize = 64;

/// A host, and how it is looked at.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its files.
    pub root: Root,
    /// What it is tuned for.
    pub profile: Profile,
    /// Its CPUs; empty where it does not tell.
    pub online: CpuSet,
    /// CPUs that shards run on.
    pub shards: CpuSet,
    /// The interface that clients come through.
    pub nic: Option<String>,
}

impl Host {
    /// The host beneath `root`. Without `shards`, those that the broker would choose; without `nic`, the interface of
    /// the default route.
    pub fn new(root: Root, profile: Profile, shards: Option<CpuSet>, nic: Option<String>) -> Self {
        let online = facts::online_cpus(&root).unwrap_or_default();
        let shards = shards.unwrap_or_else(|| chosen_shards(&root, &online));
        let nic = nic.or_else(|| default_interface(&root));
        Host { root, profile, online, shards, nic }
    }

    /// CPUs left to everything but shards.
    pub fn housekeeping(&self) -> CpuSet {
        self.online.difference(&self.shards)
    }

    /// Why shards cannot be kept apart from the rest on this host, if so.
    pub fn no_cores_apart(&self) -> Option<&'static str> {
        match (self.online.is_empty(), self.housekeeping().is_empty()) {
            (true, _) => Some("the host does not tell its CPUs"),
            (false, true) => Some("shards have all CPUs, none is left for the rest"),
            (false, false) => None,
        }
    }

    /// The CPUs that a boot parameter names; none where it is not given, `None` where it cannot be read.
    pub fn boot_cpus(&self, name: &str) -> Option<CpuSet> {
        let Some(value) = facts::boot_parameter(&self.root, name) else {
            return self.root.exists("/proc/cmdline").then(CpuSet::default);
        };
        let last = self.online.iter().next_back().unwrap_or(0).to_string();
        match value.as_str() {
            "all" => Some(self.online.clone()),
            _ => CpuSet::from_boot_parameter(&value.replace('N', &last)),
        }
    }

    /// What `read` says of each of `cpus`, put together by value.
    pub fn by_value(&self, cpus: &CpuSet, read: impl Fn(u32) -> Option<String>) -> BTreeMap<String, CpuSet> {
        let mut values: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for cpu in cpus.iter() {
            if let Some(value) = read(cpu) {
                values.entry(value).or_default().push(cpu);
            }
        }
        values.into_iter().map(|(value, cpus)| (value, cpus.into_iter().collect())).collect()
    }

    /// A file of the NIC.
    pub fn nic_path(&self, file: &str) -> Option<String> {
        Some(format!("/sys/class/net/{}/{file}", self.nic.as_ref()?))
    }

    /// The NUMA node that the NIC is on.
    pub fn nic_node(&self) -> Option<u32> {
        // Devices without a node say -1, which is not a number here. A virtio device has it at the PCI device above.
        let paths = [self.nic_path("device/numa_node")?, self.nic_path("device/../numa_node")?];
        paths.iter().find_map(|path| self.root.number(path)).map(|node| node as u32)
    }

    /// The CPUs of a NUMA node.
    pub fn node_cpus(&self, node: u32) -> Option<CpuSet> {
        self.root.read(&format!("/sys/devices/system/node/node{node}/cpulist"))?.parse().ok()
    }

    /// The NUMA nodes that there are.
    pub fn nodes(&self) -> Option<CpuSet> {
        self.root.read("/sys/devices/system/node/online")?.parse().ok()
    }

    /// The CPUs beside the NIC: those of its node, or all where it has none.
    pub fn near_nic(&self) -> CpuSet {
        let near = self.nic_node().and_then(|node| self.node_cpus(node));
        near.map(|cpus| cpus.intersection(&self.online))
            .filter(|cpus| !cpus.is_empty())
            .unwrap_or(self.online.clone())
    }
}

/// What `fulmar serve` does by itself: all CPUs that it may use but the first, the last ones if those are too many.
/// Where some are isolated, they are meant for it.
fn chosen_shards(root: &Root, online: &CpuSet) -> CpuSet {
    let isolated = facts::isolated_cpus(root).unwrap_or_default().intersection(online);
    if !isolated.is_empty() {
        return isolated;
    }
    let allowed = facts::allowed_cpus(root).map(|cpus| cpus.intersection(online));
    let usable = allowed.filter(|cpus| !cpus.is_empty()).unwrap_or_else(|| online.clone());
    let shards = usable.len().saturating_sub(1).clamp(1, MOST_SHARDS);
    usable.iter().rev().take(shards).collect()
}

fn default_interface(root: &Root) -> Option<String> {
    let routes = root.read("/proc/net/route")?;
    let mut fields = routes.lines().map(|line| line.split_whitespace());
    fields.find_map(|mut fields| {
        let (interface, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000" && is_file_name(interface)).then(|| interface.to_owned())
    })
}

/// Whether a name can stand for one component of a path.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// Values with the CPUs that have them: `performance (0-3), powersave (4-7)`; without CPUs where all have the same.
pub fn joined(values: &BTreeMap<String, CpuSet>) -> String {
    match values.len() {
        1 => values.keys().next().cloned().unwrap_or_default(),
        _ => {
            let parts: Vec<String> = values.iter().map(|(value, cpus)| format!("{value} ({cpus})")).collect();
            parts.join(", ")
        }
    }
}
