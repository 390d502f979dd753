//! What ingest makes of the canonical workload: messages from the bytes of a drop file.

use std::hint::black_box;
use std::sync::Arc;

use hikyaku::ingest::{Format, Limits, NewMessage, Parser};

use crate::workload::Generator;

/// As the ingestion loop reads.
pub const CHUNK_BYTES: usize = hikyaku::io::dropdir::CHUNK_BYTES;

/// A file, in chunks of `chunk` bytes.
#[must_use]
pub fn chunks(file: &[u8], chunk: usize) -> Vec<Arc<Vec<u8>>> {
    file.chunks(chunk)
        .map(|chunk| Arc::new(chunk.to_vec()))
        .collect()
}

/// Parses one file; `out` is emptied after each chunk, as the ingestion loop does.
///
/// # Panics
/// The file is not valid: a bench made it itself.
pub fn parse(format: Format, chunks: &[Arc<Vec<u8>>], out: &mut Vec<NewMessage>) {
    let mut parser = Parser::new(format, Limits::default());
    for chunk in chunks {
        parser
            .feed(black_box(chunk), out)
            .expect("the bench's own file is valid");
        // As the ingestion loop does: what is out goes on before the next chunk.
        if format == Format::Bsmtp {
            black_box(&*out);
            out.clear();
        }
    }
    black_box(parser.finish(out).expect("the bench's own file is valid"));
    black_box(&*out);
    out.clear();
}

/// A BSMTP file with these messages of the workload.
#[must_use]
pub fn file(generator: &Generator, numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        generator.bsmtp(number, None, &mut bytes);
    }
    bytes
}

/// The same, parsed.
///
/// # Panics
/// The parser refuses the workload.
#[must_use]
pub fn messages(generator: &Generator, numbers: impl Iterator<Item = u64>) -> Vec<NewMessage> {
    let bytes = file(generator, numbers);
    let mut parser = Parser::new(Format::Bsmtp, Limits::default());
    let mut out = Vec::new();
    for chunk in chunks(&bytes, CHUNK_BYTES) {
        parser
            .feed(&chunk, &mut out)
            .expect("the workload is valid");
    }
    parser.finish(&mut out).expect("the workload is valid");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    #[test]
    fn the_workload_is_parsed_as_it_was_made() {
        let generator = Workload::canonical(3).generator();
        let found = messages(&generator, 10..610);
        assert_eq!(found.len(), 600);
        for (number, message) in (10..).zip(&found) {
            let mut content = Vec::new();
            generator.message(number, None, &mut content);
            assert_eq!(message.content.as_slice(), content, "{number}");
        }
        let chunks = chunks(&file(&generator, 0..3), 1000);
        parse(Format::Bsmtp, &chunks, &mut Vec::new());
    }
}
