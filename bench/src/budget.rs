//! wip
pub mod cpu;
pub mod dialogue;
pub mod parse;
pub mod peer;
pub mod turn;
