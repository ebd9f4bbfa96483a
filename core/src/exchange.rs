//! Exchange types and the registry that names them.
