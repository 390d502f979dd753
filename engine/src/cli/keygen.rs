//! `hikyaku keygen`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `hikyaku keygen`.
#[derive(Debug, Args)]
#[command(after_help = KEYGEN_EXAMPLES)]
pub struct KeygenArgs {
    /// Domain that signs (d=)
    #[arg(long, value_name = "DOMAIN")]
    pub domain: String,
    /// Selector (s=): a name of its own for every key, such as the month
    #[arg(long, value_name = "SELECTOR")]
    pub selector: String,
    /// Kind of key; receivers that know no Ed25519 need an RSA signature beside it
    #[arg(long = "type", value_enum, default_value = "rsa2048")]
    pub kind: KeyKind,
    /// File for the private key; it must not exist, and only its owner may read it
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

const KEYGEN_EXAMPLES: &str = "\
Examples:
  hikyaku keygen --domain example.com --selector 2026a --out 2026a.pem
  hikyaku keygen --domain example.com --selector ed2026a --type ed25519 --out ed2026a.pem";

/// Kinds of DKIM key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// RSA, 2048 bits: every receiver verifies it
    Rsa2048,
    /// Ed25519 (RFC 8463): 30 times faster, not yet verified everywhere
    Ed25519,
}
