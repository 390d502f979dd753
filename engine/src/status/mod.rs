//! What is so now: conditions in force, and the document that `log/state.json` holds and `hikyaku
//! status` prints. Values only; `io/statefile.rs` reads the counters and writes the file.

pub mod condition;
pub mod document;

pub use condition::{Change, Conditions, Kind, Readings};
pub use document::{Document, Numbers};
