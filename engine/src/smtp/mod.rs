//! The SMTP client as a value: bytes and deadlines in, actions out.
