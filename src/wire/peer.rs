//! Frames between nodes: bytes ⇄ our own types; malformed values are refused here, with a reason.
