//! MIME: header fields, transfer encodings, charsets and text out of HTML.
//!
//! Values in, bytes out; nothing here knows of jobs or rows. Written here although `mail-builder` is
//! in the tree, because a message has to be the same on every attempt (mail-builder draws boundaries
//! and Message-IDs), must not be assembled anew where nothing depends on the row, has to be 7-bit,
//! and because mail-builder neither writes ISO-2022-JP nor refuses control characters in values.

pub mod charset;
pub mod header;
pub mod html;
pub mod lines;
pub mod parameter;
pub mod plain;
pub mod transfer;
