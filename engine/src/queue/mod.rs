//! Who waits, who is due, and when a recipient is tried again or given up.
//!
//! [`wheel`] holds what is deferred, [`retry`] says until when. What is ready lies at its domain, apart by job
//! ([`ready`]); a site takes its jobs and their domains in turns ([`round`]); [`jobs`] says which may be sent at all,
//! and [`calendar`] which sites.

pub mod calendar;
pub mod domain;
pub mod jobs;
pub mod ready;
pub mod retry;
pub mod round;
pub mod site;
pub mod wheel;
