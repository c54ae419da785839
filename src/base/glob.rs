//! Redis glob patterns.
