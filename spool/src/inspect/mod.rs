//! Reading a spool without its lock, for operators and fuzzing: nothing here changes a segment.
//!
//! [`look`] reads a whole spool, also while an engine writes it; the rest are the parts that read bytes.

mod view;

pub use crate::flush::{BATCH_HEADER_BYTES, BatchHeader};
pub use crate::indoubt::{Doubts, doubts};
pub use crate::record::{
    FLAG_ACCEPTED, FLAG_IGNORABLE, FLAG_RESTATED, HEADER_BYTES, Kind, Record, checked, parse,
};
pub use crate::scan::{BatchView, Expected, Gap, Scan, Signs, Verdict, scan, scan_from, verdict};
pub use crate::segment::{BLOCK, BadHeader, FORMAT_VERSION, SegmentHeader};
pub use view::{Inspection, LogView, NotUsed, SegmentView, look};
