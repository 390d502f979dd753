//! Limits on egress paths: "go", or "not before".
//!
//! An egress path is an egress source × a site. A limit holds for the whole process, exactly,
//! however many shards serve the site: its state is atomics that shards reach through cached
//! handles ([`Path`]). No lock is taken per message or per connection.
//!
//! - [`bucket`]: one rate, as one theoretical arrival time;
//! - [`gate`]: all limits of a path, and the registry that hands paths out;
//! - [`feedback`]: how a path's rate and connections follow the replies.

pub mod bucket;
pub mod feedback;
pub mod gate;

pub use bucket::Bucket;
pub use feedback::{Change, Reason, Slower};
pub use gate::{NotBefore, Path, Permit, Registry};
