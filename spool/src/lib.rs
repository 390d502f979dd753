//! Durable, append-only spool of Hikyaku: segments, group commit, marks, recovery, in-doubt slots.
//!
//! The crate is synchronous and has no executor. It builds batches and owns the files; the engine writes each batch with
//! one `pwrite` and one `fdatasync` and reports back. Messages are read through a read-only map.
//!
//! # States of a message, and what a crash can leave
//!
//! - S1, no record, no mark: the drop file is still there, and is imported again.
//! - S2, a torn record: it was in the last batch, which nobody was told about; recovery zeroes it. As S1.
//! - S3, a record (and its submission's ACCEPT), no final mark: it will be attempted.
//! - S4, a record and a final mark: done.
//!
//! A drop file goes only once its ACCEPT is durable, and a later batch too. So a crash may repeat a delivery, between the
//! peer's reply and the durable mark, and never loses a message. Which deliveries it may repeat is named by the in-doubt
//! slots. Messages of a submission without ACCEPT are staged: they are never sent, and are discarded. A message without
//! recipients, an annex, ends with its submission: the record that closes or discards the one ends the other.
//!
//! # Layout
//!
//! ```text
//! spool/            0700
//!   FORMAT          name, version, uuid, crc
//!   LOCK            flock; its text names the holder
//!   shard-NNNN/     one log: seg-<first batch>.log, pool-<n>.seg (spares), indoubt.map
//!   quarantine/     copies of damaged segments, each with a .reason
//! segment           4 KiB header, then batches on 4 KiB boundaries, SEAL at the end          (segment.rs, footer.rs)
//! batch             128 bytes of header, records, zeros up to 4 KiB: one group commit        (flush.rs)
//! record            16 bytes of header, payload, zeros up to 8 bytes                         (record.rs)
//! ```
//!
//! # Use
//!
//! `append_*`, then `take_batch`, write and flush it, `committed`; when `durable_seq` has reached what `forming_seq` said
//! after an append, that append is durable. Call `reclaim` now and then.
//!
//! Deliberately absent: checkpoints (recovery reads the footer of every sealed segment, footer.rs says what is verified
//! when), reads past the map while the engine runs (an unreadable sector then raises SIGBUS and ends the
//! process; recovery and inspection read around it, `readable.rs`), more than one batch in flight.
#![deny(unsafe_code)]

mod directory;
mod disk;
mod error;
pub mod faults;
mod files;
mod flush;
mod footer;
mod indoubt;
pub mod inspect;
mod lock;
mod log;
mod map;
mod mark;
mod pass;
mod place;
mod pool;
mod readable;
mod reclaim;
mod record;
mod recover;
mod replay;
mod scan;
mod segment;
pub mod suppress;
pub mod suppressed;
mod table;

pub use directory::{Options, Spool};
pub use error::{Full, SpoolError};
pub use flush::Batch;
pub use indoubt::{Doubt, InDoubt, InDoubtRecipient, Slot};
pub use lock::{LastStop, StopNote};
pub use log::{LiveMessage, Log, MessageView, Room, Waiting};
pub use mark::{Mark, Tally, Verdict};
pub use reclaim::Reclaimed;
pub use recover::{Damage, Recovered, RecoveredSubmission, Report};
pub use table::MessageRef;
