//! Placeholder; see the issue in work.
