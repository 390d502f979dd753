//! Limits on egress paths: "go", or "not before".
