//! Text escapes of the line dialect.
