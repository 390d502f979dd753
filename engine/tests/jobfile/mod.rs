//! Job files for tests.
#![allow(dead_code, reason = "each test program uses a part of it")]

use hikyaku::job::archive::{write_end, write_header, write_padding};

/// The archive of a job with these files, in this order.
pub fn archive<C: AsRef<[u8]>>(files: &[(&str, C)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        entry(&mut out, name, content.as_ref());
    }
    write_end(&mut out);
    out
}

/// One file of an archive.
pub fn entry(out: &mut Vec<u8>, name: &str, content: &[u8]) {
    write_header(out, name, content.len() as u64);
    out.extend_from_slice(content);
    write_padding(out, content.len() as u64);
}

/// A header of 512 bytes with these bytes at an offset, and its checksum made right.
pub fn patched(mut header: Vec<u8>, patches: &[(usize, &[u8])]) -> Vec<u8> {
    for (at, bytes) in patches {
        header[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header[..512].iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

/// `job.toml` with a text part, `rows.csv` and the keys of `extra` in front of the tables.
pub fn document(name: &str, extra: &str) -> String {
    format!(
        "name = \"{name}\"\nfrom = \"News <news@sender.test>\"\nreverse_path = \"bounce+{{token}}@bounces.sender.test\"\n\
         subject = \"For {{{{ name }}}}\"\n{extra}\n[recipients]\nfile = \"rows.csv\"\n\n[content]\ntext = \"body.txt\"\n\n\
         [list]\nid = \"list.sender.test\"\nunsubscribe = \"https://sender.test/u/{{token}}\"\n"
    )
}

/// The usual text part.
pub const TEXT: &str = "Hello {{ name }}\n{{ unsubscribe_url }}\n";

/// `job.toml`, `body.txt` and these rows.
pub fn with_rows(document: &str, rows: impl AsRef<[u8]>) -> Vec<u8> {
    archive(&[
        ("job.toml", document.as_bytes()),
        ("body.txt", TEXT.as_bytes()),
        ("rows.csv", rows.as_ref()),
    ])
}
