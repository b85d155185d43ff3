//! Dapr's resources as typed values, and how they are read from files.

pub mod yaml;
