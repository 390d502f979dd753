//! Who waits, who is due, and when a recipient is tried again or given up.
