//! RDMA devices: whether one can be used, and by which address.
//!
//! PFC and ECN are set by way of netlink, which is not a file; what counters and vendors' files tell of them is told.

use crate::host::Host;
use crate::item::{Change, Computed, Finding, Group};
use crate::profile::Profile;
use crate::value::Form;

const fn item(name: &'static str, about: &'static str, check: fn(&Host) -> Finding) -> Computed {
    Computed { name, group: Group::Rdma, about, check }
}

/// The items of this group.
pub const ITEMS: &[Computed] = &[
    item("rdma-devices", "RDMA devices and their drivers", devices),
    item("rdma-access", "Device files that programs reach RDMA by", access),
    item("rdma-ports", "State and rate of each port", ports),
    item("rdma-gid", "Which GID index is RoCE version 2 over IPv4 or IPv6", gids),
    item("rdma-cm-mode", "RoCE version that connections are made with", connection_mode),
    item("rdma-mtu", "MTU of the interface beneath a RoCE port", mtu),
    item("rdma-loss", "Packets that RDMA had to send again", loss),
    item("rdma-pfc-ecn", "Whether the network holds back instead of dropping (PFC, ECN)", flow_control),
];

const CLASS: &str = "/sys/class/infiniband";

/// Most GIDs looked at of a port; devices have 16 to 256.
const MOST_GIDS: usize = 1024;

/// A port of a device.
struct Port {
    device: String,
    number: String,
}

impl Port {
    fn path(&self, file: &str) -> String {
        format!("{CLASS}/{}/ports/{}/{file}", self.device, self.number)
    }

    fn read(&self, host: &Host, file: &str) -> Option<String> {
        host.root.read(&self.path(file))
    }

    fn label(&self) -> String {
        format!("{}/{}", self.device, self.number)
    }

    fn is_active(&self, host: &Host) -> bool {
        self.read(host, "state").is_some_and(|state| state.ends_with("ACTIVE"))
    }

    fn is_ethernet(&self, host: &Host) -> bool {
        self.read(host, "link_layer").is_some_and(|layer| layer == "Ethernet")
    }

    /// The interface that it shares the wire with.
    fn interface(&self, host: &Host) -> Option<String> {
        self.read(host, "gid_attrs/ndevs/0")
            .filter(|name| crate::host::is_file_name(name))
            .or_else(|| host.root.list(&format!("{CLASS}/{}/device/net", self.device)).into_iter().next())
    }
}

/// Whether the host has an RDMA device.
pub(super) fn is_present(host: &Host) -> bool {
    !host.root.list(CLASS).is_empty()
}

fn all_ports(host: &Host) -> Vec<Port> {
    let of_device = |device: String| {
        let numbers = host.root.list(&format!("{CLASS}/{device}/ports"));
        numbers.into_iter().map(move |number| Port { device: device.clone(), number })
    };
    host.root.list(CLASS).into_iter().flat_map(of_device).collect()
}

/// The ports that could carry messages: active, on Ethernet.
fn roce_ports(host: &Host) -> Vec<Port> {
    all_ports(host).into_iter().filter(|port| port.is_active(host) && port.is_ethernet(host)).collect()
}

/// Why there is nothing to look at, if so.
fn missing(host: &Host) -> Option<Finding> {
    (!is_present(host)).then(|| Finding::not_applicable("no RDMA device"))
}

fn missing_roce(host: &Host) -> Option<Finding> {
    missing(host)
        .or_else(|| roce_ports(host).is_empty().then(|| Finding::not_applicable("no active RoCE port")))
}

fn devices(host: &Host) -> Finding {
    let why = "Without a device Fulmar speaks TCP.";
    if let Some(finding) = missing(host) {
        return finding.why(why);
    }
    let described = |name: String| {
        let driver = host.root.link_name(&format!("{CLASS}/{name}/device/driver"));
        let firmware = host.root.read(&format!("{CLASS}/{name}/fw_ver"));
        let parts: Vec<String> =
            [driver, firmware.map(|version| format!("firmware {version}"))].into_iter().flatten().collect();
        if parts.is_empty() { name } else { format!("{name} ({})", parts.join(", ")) }
    };
    Finding::any(host.root.list(CLASS).into_iter().map(described).collect::<Vec<_>>().join(", ")).why(why)
}

fn access(host: &Host) -> Finding {
    let why = "The verbs library opens these files; in a container they have to be handed in.";
    if let Some(finding) = missing(host) {
        return finding.why(why);
    }
    let files = host.root.list("/dev/infiniband");
    let has = |start: &str| files.iter().any(|name| name.starts_with(start));
    let found = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
    Finding::compared(has("uverbs") && has("rdma_cm"), found, "uverbs and rdma_cm")
        .why(why)
        .by_hand(["modprobe -a ib_uverbs rdma_ucm"])
}

fn ports(host: &Host) -> Finding {
    let why = "A port carries messages only when its link is up and it is active.";
    if let Some(finding) = missing(host) {
        return finding.why(why);
    }
    let ports = all_ports(host);
    let described = |port: &Port| {
        // '4: ACTIVE'
        let state = port.read(host, "state").unwrap_or_else(|| "unknown".to_owned());
        let state = state.rsplit(": ").next().unwrap_or_default().to_lowercase();
        let rate = port.read(host, "rate").filter(|_| port.is_active(host)).map(|rate| format!(", {rate}"));
        let layer = port.read(host, "link_layer").map(|layer| format!(" {layer}"));
        format!("{}{} {state}{}", port.label(), layer.unwrap_or_default(), rate.unwrap_or_default())
    };
    let found = ports.iter().map(described).collect::<Vec<_>>().join("; ");
    let interfaces: Vec<String> = ports.iter().filter_map(|port| port.interface(host)).collect();
    let commands = interfaces.iter().map(|interface| format!("ip link set {interface} up"));
    Finding::compared(ports.iter().any(|port| port.is_active(host)), found, "one active")
        .why(why)
        .by_hand(commands)
}

/// A GID's index, with its address.
struct Gid {
    index: usize,
    address: String,
}

/// The GIDs of a port that are RoCE version 2 and not link-local, with IPv4 written as such.
fn routable_gids(host: &Host, port: &Port) -> Vec<Gid> {
    let read = |index: usize| {
        // Entries without a GID refuse to tell their type.
        let kind = port.read(host, &format!("gid_attrs/types/{index}"))?;
        let address: std::net::Ipv6Addr = port.read(host, &format!("gids/{index}"))?.parse().ok()?;
        let routable = !address.is_unicast_link_local() && !address.is_unspecified();
        let address =
            address.to_ipv4_mapped().map_or_else(|| address.to_string(), |address| address.to_string());
        (kind == "RoCE v2" && routable).then_some(Gid { index, address })
    };
    let indices = host.root.list(&port.path("gids")).into_iter().filter_map(|name| name.parse().ok());
    indices.take(MOST_GIDS).filter_map(read).collect()
}

fn gids(host: &Host) -> Finding {
    let why = "Version 1 does not pass a router, and peers of different versions do not meet; the index is what tools ask \
               for.";
    if let Some(finding) = missing_roce(host) {
        return finding.why(why);
    }
    let mut without = Vec::new();
    let mut found = Vec::new();
    for port in roce_ports(host) {
        let gids = routable_gids(host, &port);
        let listed: Vec<String> =
            gids.iter().map(|gid| format!("index {} {}", gid.index, gid.address)).collect();
        match listed.is_empty() {
            true => {
                found.push(format!("{}: none", port.label()));
                without.extend(port.interface(host));
            }
            false => found.push(format!("{}: {}", port.label(), listed.join(", "))),
        }
    }
    let fine = found.iter().all(|text| !text.ends_with(": none"));
    let commands =
        without.into_iter().map(|interface| format!("ip address add ADDRESS/LENGTH dev {interface}"));
    Finding::compared(fine, found.join("; "), "RoCE v2 with an address of its own").why(why).by_hand(commands)
}

fn connection_mode(host: &Host) -> Finding {
    let why = "Connections made with version 1 do not pass a router, nor meet peers of version 2.";
    if let Some(finding) = missing_roce(host) {
        return finding.why(why);
    }
    const WANTED: &str = "RoCE v2";
    let (mut found, mut changes, mut commands) = (Vec::new(), Vec::new(), Vec::new());
    for port in roce_ports(host) {
        let path =
            format!("/sys/kernel/config/rdma_cm/{}/ports/{}/default_roce_mode", port.device, port.number);
        let Some(mode) = host.root.read(&path) else { continue };
        if mode != WANTED {
            commands.push(format!("cma_roce_mode -d {} -p {} -m 2", port.device, port.number));
            changes.push(Change::new(path, Form::Words, &*mode, WANTED));
        }
        found.push(format!("{} {mode}", port.label()));
    }
    if found.is_empty() {
        return Finding::unknown("not set up in configfs; kernels from 4.14 use RoCE v2 by themselves")
            .wanting(WANTED)
            .why(why)
            .by_hand(
                roce_ports(host)
                    .iter()
                    .map(|port| format!("cma_roce_mode -d {} -p {}", port.device, port.number)),
            );
    }
    Finding::compared(changes.is_empty(), found.join("; "), WANTED).why(why).apply(changes, commands)
}

/// Interface MTU beneath which RDMA cannot use its largest MTU, 4096 bytes, with headers.
const LARGE_MTU: u64 = 4200;

fn mtu(host: &Host) -> Finding {
    let why = "RDMA uses the largest of 1024, 2048 and 4096 that fits: at 1500 each packet carries 1024 bytes; all hosts \
               and switches on the way have to agree.";
    if let Some(finding) = missing_roce(host) {
        return finding.why(why);
    }
    let (mut found, mut small) = (Vec::new(), Vec::new());
    for interface in roce_ports(host).iter().filter_map(|port| port.interface(host)) {
        let Some(mtu) = host.root.number(&format!("/sys/class/net/{interface}/mtu")) else { continue };
        found.push(format!("{interface} {mtu}"));
        if mtu < LARGE_MTU {
            small.push(interface);
        }
    }
    if found.is_empty() {
        return Finding::unknown("no interface beneath the ports").why(why);
    }
    let found = found.join("; ");
    if host.profile != Profile::Throughput {
        return Finding::any(found).why(why);
    }
    let commands = small.iter().map(|interface| format!("ip link set {interface} mtu 9000"));
    Finding::compared(small.is_empty(), found, format!("at least {LARGE_MTU}")).why(why).by_hand(commands)
}

/// Counters of packets that were lost or came too late.
const LOSS_COUNTERS: &[&str] =
    &["out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "implied_nak_seq_err"];

fn loss(host: &Host) -> Finding {
    let why = "One lost packet makes most NICs send everything after it again, after a timeout of milliseconds; losses \
               mean that PFC or ECN is not set up on the whole way.";
    if let Some(finding) = missing_roce(host) {
        return finding.why(why);
    }
    let (mut told, mut lost, mut commands) = (false, Vec::new(), Vec::new());
    for port in roce_ports(host) {
        for counter in LOSS_COUNTERS {
            let Some(count) = host.root.number(&port.path(&format!("hw_counters/{counter}"))) else {
                continue;
            };
            told = true;
            if count > 0 {
                lost.push(format!("{} {counter} {count}", port.label()));
            }
        }
        commands.extend(port.interface(host).map(|interface| format!("dcb pfc show dev {interface}")));
    }
    if !told {
        return Finding::unknown("the driver counts no losses in sysfs").why(why).by_hand(commands);
    }
    let found = if lost.is_empty() { "none since boot".to_owned() } else { lost.join("; ") };
    Finding::compared(lost.is_empty(), found, "none").why(why).by_hand(commands)
}

fn flow_control(host: &Host) -> Finding {
    let why =
        "RoCE needs a network that marks (ECN) or pauses (PFC) before it drops, on every switch of the way.";
    if let Some(finding) = missing_roce(host) {
        return finding.why(why);
    }
    let (mut found, mut all_on, mut commands) = (Vec::new(), true, Vec::new());
    for interface in roce_ports(host).iter().filter_map(|port| port.interface(host)) {
        let net = format!("/sys/class/net/{interface}");
        let ecn = format!("{net}/ecn/roce_np/enable");
        let marked: Vec<String> = host
            .root
            .list(&ecn)
            .into_iter()
            .filter(|priority| host.root.number(&format!("{ecn}/{priority}")) == Some(1))
            .collect();
        let paused = host.root.read(&format!("{net}/qos/pfc"));
        if host.root.exists(&ecn) || paused.is_some() {
            let pauses = paused.as_ref().is_some_and(|priorities| priorities.contains('1'));
            let marks = if marked.is_empty() { "none".to_owned() } else { marked.join(",") };
            let pfc = paused.unwrap_or_else(|| "not told".to_owned());
            found.push(format!("{interface} ECN on priorities {marks}, PFC {pfc}"));
            all_on &= pauses || !marked.is_empty();
        }
        commands.push(format!("dcb pfc show dev {interface}"));
        commands.push(format!("dcb pfc set dev {interface} prio-pfc all:off 3:on"));
    }
    if found.is_empty() {
        return Finding::unknown("the driver does not tell in sysfs")
            .wanting("ECN or PFC on")
            .why(why)
            .by_hand(commands);
    }
    Finding::compared(all_on, found.join("; "), "ECN or PFC on").why(why).by_hand(commands)
}
