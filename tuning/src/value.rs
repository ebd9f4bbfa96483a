//! How the kernel writes a value, so that what was read, wanted and read back can be compared.

use serde::{Deserialize, Serialize};

use crate::cpus::CpuSet;
use crate::root::Root;

/// How a file writes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Words; the blanks between them do not count.
    Words,
    /// All choices, the one in force in brackets: `always [madvise] never`. Written as that one word.
    Choice,
    /// A list of CPUs: `0-3,8`.
    CpuList,
    /// A mask of CPUs: `ff,00000003`.
    CpuMask,
}

impl Form {
    /// The value that a file holds, in the one spelling that stands for all.
    pub fn read(self, root: &Root, path: &str) -> Option<String> {
        self.normal(&root.read(path)?)
    }

    /// The one spelling of a value; `None` where it is not of this form.
    pub fn normal(self, text: &str) -> Option<String> {
        match self {
            Form::Words => Some(text.split_whitespace().collect::<Vec<_>>().join(" ")),
            Form::Choice => {
                let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
                Some(chosen.map_or(text.trim(), |(word, _)| word).to_owned())
            }
            Form::CpuList => Some(text.parse::<CpuSet>().ok()?.to_string()),
            Form::CpuMask => Some(CpuSet::from_mask(text)?.to_mask()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_value_are_one() {
        assert_eq!(Form::Words.normal("4096\t131072\t6291456"), Form::Words.normal("4096 131072 6291456"));
        assert_eq!(Form::Choice.normal("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(Form::Choice.normal("madvise"), Some("madvise".to_owned()));
        assert_eq!(Form::CpuList.normal("0,1,2").as_deref(), Some("0-2"));
        assert_eq!(Form::CpuMask.normal("00000000,0000000f").as_deref(), Some("f"));
        assert_eq!(Form::CpuMask.normal("all"), None);
    }
}
