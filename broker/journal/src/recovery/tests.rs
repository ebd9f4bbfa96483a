mod damage;
pub(crate) mod memory;
pub(crate) mod model;
mod shards;
