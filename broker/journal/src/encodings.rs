//! The encodings of properties that a broker knows, and the codes that records name them by.

use std::ptr;

use fulmar_core::Encoding;

/// Most encodings that a segment can name.
pub const MOST_ENCODINGS: usize = 16;

/// Longest name of an encoding, in bytes.
pub const LONGEST_ENCODING_NAME: usize = 31;

/// Encodings and their codes. A segment's header says which names its codes stand for, so that codes may change.
#[derive(Clone)]
pub struct Encodings(Vec<&'static dyn Encoding>);

impl Encodings {
    /// Codes in this order.
    ///
    /// # Panics
    /// If there are more than [`MOST_ENCODINGS`], or a name is longer than [`LONGEST_ENCODING_NAME`].
    pub fn new(encodings: &[&'static dyn Encoding]) -> Self {
        assert!(encodings.len() <= MOST_ENCODINGS, "a header names {MOST_ENCODINGS} encodings at most");
        for encoding in encodings {
            let bytes = encoding.name().len();
            assert!(
                (1..=LONGEST_ENCODING_NAME).contains(&bytes),
                "a name has 1 to {LONGEST_ENCODING_NAME} bytes"
            );
        }
        Encodings(encodings.to_vec())
    }

    /// The same encodings with the codes that a header gave them.
    ///
    /// # Errors
    /// The first name that is not known here.
    pub fn in_order_of<'n>(&self, names: impl Iterator<Item = &'n [u8]>) -> Result<Encodings, Vec<u8>> {
        let known = |name: &[u8]| self.0.iter().find(|encoding| encoding.name().as_bytes() == name).copied();
        names.map(|name| known(name).ok_or_else(|| name.to_vec())).collect::<Result<_, _>>().map(Encodings)
    }

    /// Names in the order of their codes.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.0.iter().map(|encoding| encoding.name())
    }

    /// The encoding that a code stands for.
    pub fn get(&self, code: u8) -> Option<&'static dyn Encoding> {
        self.0.get(usize::from(code)).copied()
    }

    /// The code of an encoding.
    ///
    /// # Panics
    /// If it was not given to [`Encodings::new`].
    #[inline]
    pub fn code(&self, encoding: &'static dyn Encoding) -> u8 {
        let found = self.0.iter().position(|known| ptr::addr_eq(*known, encoding));
        found.unwrap_or_else(|| panic!("the journal does not know the encoding {}", encoding.name())) as u8
    }
}

impl std::fmt::Debug for Encodings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
