//! From the bytes of a drop file to envelopes and messages, or an error that names its line.
