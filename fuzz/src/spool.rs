//! What a crash or a rotten disk leaves: segments, in-doubt maps. Written here a second time from the
//! layout that the spool's modules document, so that reader and writer cannot err together.

mod indoubt;
mod segment;

pub use indoubt::indoubt;
pub use segment::segment_scan;
