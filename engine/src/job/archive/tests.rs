//! Archives of every kind, cut everywhere.

use super::*;
use proptest::prelude::*;

/// What an archive came to: files with their contents, or the error.
fn read(bytes: &[u8], cuts: &[usize]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut archive = Archive::default();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut open = None;
    let mut feed = |archive: &mut Archive, bytes: &[u8]| {
        archive.feed(bytes, &mut |event, at| {
            match event {
                Event::File { name, size } => {
                    assert_eq!(open.replace((size, at)), None);
                    files.push((name.to_owned(), Vec::new()));
                }
                Event::Bytes(bytes) => {
                    assert!(!bytes.is_empty());
                    files.last_mut().expect("begun").1.extend_from_slice(bytes);
                }
                Event::End => {
                    let (size, began) = open.take().expect("begun");
                    assert_eq!(
                        (files.last().expect("begun").1.len() as u64, at - began),
                        (size, size)
                    );
                }
            }
            Ok(())
        })
    };
    let mut start = 0;
    let mut cuts = cuts.to_vec();
    cuts.sort_unstable();
    for end in cuts
        .into_iter()
        .map(|cut| cut.min(bytes.len()))
        .chain([bytes.len()])
    {
        feed(&mut archive, &bytes[start..end]).map_err(|error| error.to_string())?;
        start = end;
    }
    archive.finish().map_err(|error| error.to_string())?;
    Ok(files)
}

fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files {
        write_header(&mut bytes, name, content.len() as u64);
        bytes.extend_from_slice(content);
        write_padding(&mut bytes, content.len() as u64);
    }
    write_end(&mut bytes);
    bytes
}

/// With another byte at `at` of the first header, and the checksum that belongs to it.
fn patched(at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = pack(&[("a.txt".into(), b"text".to_vec())]);
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes[148..156].copy_from_slice(b"        ");
    let sum: u32 = bytes[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

#[test]
fn what_a_job_does_not_hold_is_named() {
    for (bytes, said) in [
        (Vec::new(), "archive: it is empty"),
        (
            b"PK\x03\x04".repeat(200),
            "archive: at byte 0: no tar header",
        ),
        (
            patched(156, b"5"),
            "a directory \"a.txt\": a job holds plain files only",
        ),
        (patched(156, b"2"), "a symbolic link"),
        (patched(156, b"1"), "a hard link"),
        (patched(156, b"3"), "a device"),
        (patched(156, b"6"), "a FIFO"),
        (patched(156, b"x"), "--format=ustar"),
        (patched(156, b"L"), "longer than 100 bytes"),
        (patched(156, b"Z"), "unknown type"),
        (patched(345, b"etc"), "lies in a directory"),
        (patched(0, b"/"), "slash"),
        (patched(0, b"../"), "slash"),
        (patched(0, b"..\0\0\0"), "no plain name"),
        (patched(0, b"\0"), "no plain name"),
        (patched(0, b"a\nb"), "control character"),
        (patched(0, b"\xff"), "not valid UTF-8"),
        (
            patched(124, b"0000000000x"),
            "the size of \"a.txt\" is no number",
        ),
        (
            patched(124, &[0xff; 12]),
            "the size of \"a.txt\" is no number",
        ),
        (
            patched(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            "cut off",
        ),
        (
            pack(&[("a".into(), Vec::new()), ("a".into(), Vec::new())]),
            "a: the archive holds it twice",
        ),
    ] {
        let error = read(&bytes, &[]).expect_err(said);
        assert!(error.contains(said), "{said}: {error}");
    }
    let names = (0..=JOB_FILES_MAX).map(|number| (number.to_string(), Vec::new()));
    let error = read(&pack(&names.collect::<Vec<_>>()), &[]).expect_err("too many");
    assert!(error.contains("more than 256 files"), "{error}");
    let mut bytes = pack(&[]);
    bytes.extend_from_slice(b"x");
    assert!(
        read(&bytes, &[])
            .expect_err("more")
            .contains("behind its end")
    );
    let mut bytes = vec![0; BLOCK];
    bytes.extend_from_slice(&pack(&[("a".into(), Vec::new())]));
    assert!(
        read(&bytes, &[])
            .expect_err("gap")
            .contains("single block of zeros")
    );
}

#[test]
fn other_tars_are_read() {
    // What GNU tar keeps where POSIX keeps the prefix.
    let mut gnu = patched(257, b"ustar  \0");
    gnu[345] = b'1';
    gnu[148..156].copy_from_slice(b"        ");
    let sum: u32 = gnu[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
    gnu[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for bytes in [
        patched(0, b"./b\0\0"),
        patched(156, b"\0"),
        gnu,
        patched(124, b"      4     "),
    ] {
        assert_eq!(read(&bytes, &[]).expect("readable")[0].1, b"text");
    }
    let mut header = Vec::new();
    write_header(&mut header, "large", 9 << 30);
    assert_eq!(number(&header[124..136]), Some(9 << 30));
}

proptest! {
    #[test]
    fn what_was_packed_is_read_wherever_it_is_cut(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1200), 0..5),
        cuts in proptest::collection::vec(0_usize..6000, 0..8),
        short in any::<proptest::sample::Index>(),
        flip in any::<proptest::sample::Index>(),
    ) {
        let names = (0..).map(|number| format!("file-{number}"));
        let files: Vec<_> = names.zip(contents).collect();
        let bytes = pack(&files);
        prop_assert_eq!(read(&bytes, &cuts), Ok(files));
        // An archive that ends early is never complete.
        prop_assert!(read(&bytes[..short.index(bytes.len())], &cuts).is_err());
        // Damage means the same wherever it is cut.
        let mut damaged = bytes;
        let at = flip.index(damaged.len());
        damaged[at] ^= 0x41;
        prop_assert_eq!(read(&damaged, &cuts), read(&damaged, &[]));
    }

    #[test]
    fn any_bytes_end_alike_wherever_they_are_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        cuts in proptest::collection::vec(0_usize..2000, 0..8),
    ) {
        prop_assert_eq!(read(&bytes, &cuts), read(&bytes, &[]));
    }
}
