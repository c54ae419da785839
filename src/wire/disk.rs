//! Log records: bytes ⇄ entries and hard state.
