//! Every bound of the engine in one place, with assertions between those that must agree.

/// Longest reply text that is kept, bytes.
pub const REPLY_TEXT_MAX: usize = 1024;
/// Longest local part, octets (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_MAX: usize = 64;
/// Longest domain, octets (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;
/// Longest address: a path without its angle brackets (RFC 5321 §4.5.3.1.3).
pub const ADDRESS_MAX: usize = 254;
/// Longest text line without CRLF (RFC 5322 §2.1.1).
pub const LINE_MAX: usize = 998;
/// Recipients of one message in one parcel.
pub const PARCEL_RECIPIENTS_MAX: usize = 64 * 1024;
/// Transactions in flight on a connection that streams, unless configured otherwise.
pub const STREAM_DEPTH: u8 = 16;
/// Bytes of content that one message may have unless configured otherwise.
pub const MESSAGE_SIZE_DEFAULT: usize = 32 << 20;

const _: () = assert!(LOCAL_PART_MAX < ADDRESS_MAX && DOMAIN_MAX > LOCAL_PART_MAX);
const _: () = assert!(LINE_MAX + 2 == 1000);
/// Longest line of a reply, bytes with its line end (RFC 5321 §4.5.3.1.5 says 512; peers exceed it).
pub const REPLY_LINE_MAX: usize = 4 << 10;
/// Most lines of one reply.
pub const REPLY_LINES_MAX: usize = 100;
/// Most bytes of one reply, all lines together.
pub const REPLY_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(REPLY_TEXT_MAX <= REPLY_LINE_MAX && REPLY_LINE_MAX <= REPLY_BYTES_MAX);

/// Bytes of `job.toml`.
pub const JOB_DOCUMENT_MAX: usize = 256 << 10;
/// Longest idempotency key, job id and egress source of a drop file, octets.
pub const KEY_MAX: usize = 128;
/// Bytes of all parts of a job together: templates, attachments and inline images.
pub const JOB_PARTS_MAX: usize = 32 << 20;
/// Files of a job.
pub const JOB_FILES_MAX: usize = 256;
/// Bytes of a file name within a job.
pub const JOB_NAME_MAX: usize = 100;
/// Columns of a row.
pub const JOB_COLUMNS_MAX: usize = 1024;
/// Bytes of one field of a row.
pub const JOB_FIELD_MAX: usize = 64 << 10;
/// Bytes of one row, as it stands in its file.
pub const JOB_ROW_MAX: usize = 256 << 10;
/// Rows of a job: numbers of rows fit into 32 bits.
pub const JOB_ROWS_MAX: u64 = u32::MAX as u64;
/// Rows that are stored together.
pub const CHUNK_ROWS_MAX: usize = 512;
/// Bytes from which a chunk of rows is complete.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

const _: () = assert!(JOB_FIELD_MAX <= JOB_ROW_MAX && CHUNK_ROWS_MAX <= PARCEL_RECIPIENTS_MAX);

/// Steps that one template may take for one message: 50,000 pieces of text or fields. A loop that
/// goes on and on ends here, within milliseconds.
pub const TEMPLATE_FUEL: u64 = 100_000;
/// Bytes that the values of one template may take while it renders one message; what may need more is refused.
pub const TEMPLATE_MEMORY_MAX: u64 = 64 << 20;
/// Bytes that one template may render; a message with attachments may be larger.
pub const TEMPLATE_OUTPUT_MAX: usize = 4 << 20;
/// Octets of a header field's value, before it is encoded and folded.
pub const HEADER_VALUE_MAX: usize = 8 << 10;
