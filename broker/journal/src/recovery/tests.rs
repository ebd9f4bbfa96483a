mod damage;
mod memory;
mod model;
mod shards;
