//! Sets of CPUs, in the two forms in which the kernel writes them: lists (`0-3,8`) and masks (`ff,00000003`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Highest number of a CPU, and one. The largest kernels are built for 8,192.
pub const MAX_CPUS: u32 = 8192;

/// A set of CPUs, or of anything else that the kernel writes as a list, such as NUMA nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<u32>);

/// Text that is not a list or mask of CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCpus(String);

impl fmt::Display for NotCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a list of CPUs below {MAX_CPUS}, for example 2,4-7", self.0)
    }
}

impl std::error::Error for NotCpus {}

impl CpuSet {
    /// Reads a mask: groups of hexadecimal digits, the highest first, separated by commas.
    pub fn from_mask(text: &str) -> Option<CpuSet> {
        let digits: String = text.trim().trim_start_matches("0x").replace(',', "");
        if digits.is_empty() || digits.len() > MAX_CPUS as usize / 4 {
            return None;
        }
        let mut cpus = BTreeSet::new();
        for (position, digit) in digits.chars().rev().enumerate() {
            let bits = digit.to_digit(16)?;
            let first = position as u32 * 4;
            cpus.extend((0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| first + bit));
        }
        Some(CpuSet(cpus))
    }

    /// The set as a mask, in groups of 32 bits.
    pub fn to_mask(&self) -> String {
        let groups = self.0.last().map_or(1, |last| last / 32 + 1);
        let mut bits = vec![0u32; groups as usize];
        for cpu in &self.0 {
            bits[(cpu / 32) as usize] |= 1 << (cpu % 32);
        }
        let highest = format!("{:x}", bits[bits.len() - 1]);
        let others = bits.iter().rev().skip(1).map(|group| format!("{group:08x}"));
        std::iter::once(highest).chain(others).collect::<Vec<_>>().join(",")
    }

    /// Reads the value of a boot parameter such as `isolcpus=managed_irq,domain,2-7`: leading words are flags.
    pub fn from_boot_parameter(text: &str) -> Option<CpuSet> {
        let is_flag = |part: &&str| part.starts_with(|c: char| c.is_ascii_alphabetic());
        let list: Vec<&str> = text.split(',').skip_while(is_flag).collect();
        list.join(",").parse().ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is one of them.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// In ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + Clone + '_ {
        self.0.iter().copied()
    }

    /// Those in both.
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 & &other.0)
    }

    /// Those that `other` lacks.
    pub fn difference(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 - &other.0)
    }

    /// Those in either.
    pub fn union(&self, other: &CpuSet) -> CpuSet {
        CpuSet(&self.0 | &other.0)
    }

    /// Whether `other` has all of them.
    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        CpuSet(cpus.into_iter().filter(|&cpu| cpu < MAX_CPUS).collect())
    }
}

impl FromStr for CpuSet {
    type Err = NotCpus;

    /// Reads a list. Nothing is the empty set; a range may have a stride (`0-7:1/2`: one of every two).
    fn from_str(text: &str) -> Result<Self, NotCpus> {
        let refused = || NotCpus(text.to_owned());
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (range, stride) =
                part.split_once(':').map_or((part, None), |(range, stride)| (range, Some(stride)));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first).ok_or_else(refused)?, number(last).ok_or_else(refused)?);
            let (used, of) = match stride {
                None => (1, 1),
                Some(stride) => stride
                    .split_once('/')
                    .and_then(|(used, of)| Some((number(used)?, number(of)?)))
                    .filter(|(used, of)| *used <= *of && *of > 0)
                    .ok_or_else(refused)?,
            };
            if first > last {
                return Err(refused());
            }
            cpus.extend((first..=last).filter(|cpu| (cpu - first) % of < used));
        }
        Ok(CpuSet(cpus))
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && number < MAX_CPUS)
}

impl fmt::Display for CpuSet {
    /// As a list, neighbours joined to ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ranges(self.iter()))
    }
}

/// Ascending numbers as a list, neighbours joined to ranges: `0-3,8`.
pub fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut rest = numbers.into_iter().peekable();
    let mut parts = Vec::new();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|&next| last.checked_add(1) == Some(next)) {
            last = next;
        }
        parts.push(if last == first { first.to_string() } else { format!("{first}-{last}") });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(cpus: &[u32]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!("0-3,8".parse(), Ok(set(&[0, 1, 2, 3, 8])));
        assert_eq!("".parse(), Ok(set(&[])));
        assert_eq!(" 5\n".parse(), Ok(set(&[5])));
        assert_eq!("0-7:1/2".parse(), Ok(set(&[0, 2, 4, 6])));
        for wrong in [
            "3-1",
            "a",
            "1,,2",
            "-1",
            "1-",
            "+1",
            "8192",
            "4294967296",
            "0-8192",
            "0-3:2",
            "0-3:2/1",
            "0-3:0/0",
        ] {
            assert!(wrong.parse::<CpuSet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn masks_are_read_with_and_without_groups() {
        assert_eq!(CpuSet::from_mask("3"), Some(set(&[0, 1])));
        assert_eq!(CpuSet::from_mask("00000001,80000000"), Some(set(&[31, 32])));
        assert_eq!(CpuSet::from_mask("0"), Some(set(&[])));
        assert_eq!(CpuSet::from_mask(""), None);
        assert_eq!(CpuSet::from_mask("xyz"), None);
        assert_eq!(CpuSet::from_mask(&"f".repeat(3000)), None);
        assert_eq!(set(&[31, 32]).to_mask(), "1,80000000");
        assert_eq!(set(&[]).to_mask(), "0");
    }

    #[test]
    fn flags_before_a_list_are_passed_over() {
        assert_eq!(CpuSet::from_boot_parameter("managed_irq,domain,2-3"), Some(set(&[2, 3])));
        assert_eq!(CpuSet::from_boot_parameter("2-3"), Some(set(&[2, 3])));
        assert_eq!(CpuSet::from_boot_parameter("2-x"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(cpus in proptest::collection::btree_set(0..MAX_CPUS, 0..200)) {
            let cpus = CpuSet(cpus);
            prop_assert_eq!(cpus.to_string().parse(), Ok(cpus.clone()));
            prop_assert_eq!(CpuSet::from_mask(&cpus.to_mask()), Some(cpus));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f,:/ -]{0,64}|\\PC{0,64}") {
            if let Ok(cpus) = text.parse::<CpuSet>() {
                prop_assert!(cpus.len() <= MAX_CPUS as usize);
            }
            let _ = CpuSet::from_mask(&text);
            let _ = CpuSet::from_boot_parameter(&text);
        }
    }
}
