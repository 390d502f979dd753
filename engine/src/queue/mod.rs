//! Who waits, who is due, and when a recipient is tried again or given up.
//!
//! [`wheel`] holds what is deferred, [`retry`] says until when.

pub mod domain;
pub mod retry;
pub mod site;
pub mod wheel;
