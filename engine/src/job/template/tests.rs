//! Messages of whole jobs.
