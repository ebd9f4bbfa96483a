//! Pages.

use crate::host::Host;
use crate::item::{Computed, Finding, Group};

/// The items of this group that are not single settings.
pub const ITEMS: &[Computed] = &[Computed {
    name: "huge-pages",
    group: Group::Memory,
    about: "Huge pages that are set aside",
    check: huge_pages,
}];

fn huge_pages(host: &Host) -> Finding {
    let why = "Fulmar takes ordinary pages, and huge ones where thp gives them; pages set aside for nobody only lack \
               elsewhere.";
    let Some(count) = host.root.number("/proc/sys/vm/nr_hugepages") else {
        return Finding::unknown("no /proc/sys/vm/nr_hugepages").why(why);
    };
    let meminfo = host.root.read("/proc/meminfo").unwrap_or_default();
    let size = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:")).map(str::trim);
    match size {
        Some(size) => Finding::any(format!("{count} of {size}")).why(why),
        None => Finding::any(count.to_string()).why(why),
    }
}
