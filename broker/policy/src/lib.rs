//! Fulmar's users, password store and SASL mechanisms.
