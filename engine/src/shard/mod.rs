//! All that one core owns, and the turns it takes.
