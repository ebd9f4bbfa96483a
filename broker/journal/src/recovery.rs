//! What a restart makes of the journals' files.

mod places;
mod set;

pub use places::{Entry, Live, Places};
pub use set::PlaceSet;
