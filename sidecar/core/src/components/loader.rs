//! Loading components from resources.
