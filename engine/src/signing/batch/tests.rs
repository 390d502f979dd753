//! Batches held against signatures made one at a time, with a backend that errs on demand and, where
//! it is installed, with the library. `HIKYAKU_CRYPTO_MB` names it where the loader does not find it.

use super::crt::Factor;
use super::*;
use crate::signing::tests::{MESSAGE, NOW, Zone, pem, signed, signer, verify};
use crate::signing::{BodyHash, Signer, Unsigned};
use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use proptest::prelude::*;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, LazyLock};

const KEYS: [(&str, &str, &str); 4] = [
    ("example.com", "rsa1", "rsa2048-pkcs8.pem"),
    ("example.com", "ed", "ed25519.pem"),
    ("example.net", "rsa2", "rsa2048-p-below-q.pem"),
    ("example.org", "ed", "ed25519.pem"),
];

fn pair(file: &str) -> rsa::KeyPair {
    match PrivateKey::from_pem(&pem(file)).expect("key") {
        PrivateKey::Rsa(pair) => pair,
        PrivateKey::Ed25519(_) => panic!("{file} is not RSA"),
    }
}

/// What the fake is to do, and what it did.
#[derive(Debug, Default)]
struct Told {
    batches: AtomicU32,
    /// Refuse from this batch on; 0: never.
    refuse_from: AtomicU32,
    /// Turn one bit of the signature in this lane, from 1 on; 0: in none.
    wrong_lane: AtomicU32,
    /// Open it as if it were right all the same.
    lies: AtomicBool,
}

/// Signs with aws-lc-rs what the library would sign.
struct Fake(Vec<(Factor, rsa::KeyPair)>, Arc<Told>);

impl Fake {
    fn new() -> (Self, Arc<Told>) {
        let told = Arc::new(Told::default());
        let keys = ["rsa2048-pkcs8.pem", "rsa2048-p-below-q.pem"].map(|file| {
            let pair = pair(file);
            (Crt::new(&pair).expect("RSA-2048").p, pair)
        });
        (Self(keys.into(), told.clone()), told)
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl MultiBuffer for Fake {
    fn sign(&self, lanes: &[Lane<'_>; LANES], signatures: &mut [Number; LANES]) -> bool {
        let batch = self.1.batches.fetch_add(1, Ordering::Relaxed) + 1;
        let wrong = self.1.wrong_lane.load(Ordering::Relaxed);
        for (lane, signature) in lanes.iter().zip(&mut *signatures) {
            let digest = Digest::import_less_safe(&lane.input[SIGNATURE_BYTES - 32..], &SHA256)
                .expect("32 bytes");
            let mut padded = [0x5a; SIGNATURE_BYTES];
            pad(&digest, &mut padded);
            assert_eq!(lane.input, &padded);
            let (_, pair) = (self.0.iter())
                .find(|(p, _)| *p == lane.key.p)
                .expect("a key of the test");
            pair.sign_digest(&RSA_PKCS1_SHA256, &digest, signature)
                .expect("signature");
        }
        if let Some(lane) = (wrong as usize).checked_sub(1) {
            signatures[lane][7] ^= 1;
        }
        !matches!(self.1.refuse_from.load(Ordering::Relaxed), from if from > 0 && batch >= from)
    }

    fn open(
        &self,
        lanes: &[Lane<'_>; LANES],
        _: &[Number; LANES],
        opened: &mut [Number; LANES],
    ) -> bool {
        *opened = lanes.map(|lane| *lane.input);
        let wrong = self.1.wrong_lane.load(Ordering::Relaxed) as usize;
        if let (Some(lane), false) = (wrong.checked_sub(1), self.1.lies.load(Ordering::Relaxed)) {
            opened[lane][200] ^= 1;
        }
        true
    }
}

fn batch_keys(signer: &Signer) -> Vec<Option<BatchKey>> {
    let private = signer.keys.iter().map(|key| &key.private);
    private.map(BatchKey::new).collect()
}

fn with_fake() -> (Signer, Arc<Told>) {
    let mut signer = signer(&KEYS);
    let (fake, told) = Fake::new();
    signer.batch = Some(Batch::new(fake, batch_keys(&signer)).expect("a backend that is right"));
    told.batches.store(0, Ordering::Relaxed);
    (signer, told)
}

/// Messages of all three domains, in turn.
fn messages(count: usize) -> Vec<String> {
    let domains = ["example.com", "example.net", "example.org"].iter().cycle();
    let numbered = domains.take(count).enumerate();
    numbered
        .map(|(number, domain)| {
            let message = MESSAGE.replace("news@example.com", &format!("news@{domain}"));
            message.replace("Dear  reader", &format!("Dear reader {number}"))
        })
        .collect()
}

fn prepared(signer: &Signer, messages: &[String]) -> Vec<Unsigned> {
    messages
        .iter()
        .map(|message| {
            let mut unsigned = Unsigned::default();
            let count = signer.prepare(message.as_bytes(), None, NOW, &mut unsigned);
            assert_eq!(count.expect("a From"), unsigned.len());
            unsigned
        })
        .collect()
}

fn made(unsigned: &[Unsigned]) -> usize {
    let fields = unsigned.iter().flat_map(Unsigned::fields);
    fields
        .filter(|(field, _)| !field.signature.is_empty())
        .count()
}

/// Batch or not, the finished messages are those of `sign`, and mail-auth accepts them: it is asked
/// about some, because asking is slow and the bytes are those of signatures that it accepted.
fn check(signer: &Signer, messages: &[String], unsigned: &[Unsigned]) {
    let zone = Zone::of(signer);
    for (number, (message, unsigned)) in messages.iter().zip(unsigned).enumerate() {
        let mut finished = Vec::new();
        signer.finish(unsigned, &mut finished).expect("signatures");
        finished.extend_from_slice(message.as_bytes());
        assert_eq!(finished, signed(signer, message.as_bytes()));
        if number < 2 {
            let (passed, count) = verify(&zone, &finished);
            assert_eq!((passed, count), (unsigned.len(), unsigned.len()));
        }
    }
}

#[test]
fn a_batch_gives_the_bytes_of_single_signatures() {
    let (signer, told) = with_fake();
    assert_eq!(signer.batch_width(), LANES);
    // Two of three messages have a signature by RSA.
    for (count, rsa, batches) in [
        (0, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
        (3, 0, 0),
        (4, 3, 1),
        (11, 8, 1),
        (12, 8, 1),
        (15, 8, 1),
        (16, 11, 2),
        (24, 16, 2),
    ] {
        let messages = messages(count);
        let mut unsigned = prepared(&signer, &messages);
        let batched = signer.sign_batch(&mut unsigned);
        assert_eq!(made(&unsigned), rsa, "of {count} messages");
        let (batches_made, signatures) = (u64::from(batches), rsa as u64);
        assert_eq!(
            (batched.batches, batched.signatures),
            (batches_made, signatures)
        );
        assert_eq!(told.batches.swap(0, Ordering::Relaxed), batches);
        // Once more changes nothing.
        if count == 24 {
            signer.sign_batch(&mut unsigned);
            assert_eq!(told.batches.load(Ordering::Relaxed), 0);
        }
        check(&signer, &messages, &unsigned);
    }
}

#[test]
fn a_wrong_signature_is_not_used_and_ends_the_batches() {
    for lane in [1, 5, 8] {
        let (signer, told) = with_fake();
        let messages = messages(24);
        let mut unsigned = prepared(&signer, &messages);
        signer.sign_batch(&mut unsigned[..12]);
        assert_eq!(made(&unsigned), 8);

        told.wrong_lane.store(lane, Ordering::Relaxed);
        signer.sign_batch(&mut unsigned);
        assert_eq!(told.batches.load(Ordering::Relaxed), 2, "no third try");
        assert_eq!(made(&unsigned), 8, "none of the batch with a wrong one");
        assert_eq!(signer.batch_width(), 1);

        told.wrong_lane.store(0, Ordering::Relaxed);
        signer.sign_batch(&mut unsigned);
        assert_eq!(told.batches.load(Ordering::Relaxed), 2, "off for good");
        check(&signer, &messages, &unsigned);
    }
}

#[test]
fn a_library_that_says_wrong_is_right_is_found_by_sampling() {
    for lane in [1, 2, 5] {
        let (signer, told) = with_fake();
        told.lies.store(true, Ordering::Relaxed);
        told.wrong_lane.store(lane, Ordering::Relaxed);
        let messages = messages(12);
        let mut unsigned = prepared(&signer, &messages);
        let batches = (0..200).find(|_| {
            unsigned = prepared(&signer, &messages);
            signer.sign_batch(&mut unsigned);
            signer.batch_width() == 1
        });
        let expected = u64::from(lane - 1) * BATCHES_PER_SAMPLE;
        assert_eq!(batches, Some(expected), "each lane in its turn");
        assert_eq!(made(&unsigned), 0);
        check(&signer, &messages, &unsigned);
    }
}

#[test]
fn an_idle_lane_may_be_wrong() {
    let (signer, told) = with_fake();
    told.wrong_lane.store(8, Ordering::Relaxed);
    let messages = messages(4);
    let mut unsigned = prepared(&signer, &messages);
    signer.sign_batch(&mut unsigned);
    assert_eq!((made(&unsigned), signer.batch_width()), (3, LANES));
    check(&signer, &messages, &unsigned);
}

#[test]
fn a_refusal_ends_the_batches() {
    let (signer, told) = with_fake();
    told.refuse_from.store(2, Ordering::Relaxed);
    let messages = messages(24);
    let mut unsigned = prepared(&signer, &messages);
    signer.sign_batch(&mut unsigned);
    assert_eq!((made(&unsigned), signer.batch_width()), (8, 1));
    check(&signer, &messages, &unsigned);
}

#[test]
fn a_backend_that_is_wrong_at_the_start_is_not_used() {
    let signer = signer(&KEYS);
    // Both keys are tried: the second lane is the second key's.
    for (refuse, wrong, lies) in [
        (1, 0, false),
        (0, 1, false),
        (0, 2, false),
        (0, 1, true),
        (0, 2, true),
    ] {
        let (fake, told) = Fake::new();
        told.lies.store(lies, Ordering::Relaxed);
        told.refuse_from.store(refuse, Ordering::Relaxed);
        told.wrong_lane.store(wrong, Ordering::Relaxed);
        let error = Batch::new(fake, batch_keys(&signer)).expect_err("wrong");
        assert_eq!(
            error.to_string(),
            "the library made a wrong signature when it was tried: install another version"
        );
    }
}

#[test]
fn a_known_body_hash_gives_the_same_bytes() {
    let signer = signer(&KEYS);
    let body = MESSAGE.split_once("\r\n\r\n").expect("a body").1;
    let hash = BodyHash::of(body.as_bytes());
    let mut unsigned = Unsigned::default();
    for _ in 0..2 {
        let count = signer.prepare(MESSAGE.as_bytes(), Some(hash), NOW, &mut unsigned);
        assert_eq!(count.expect("a From"), 2);
        assert_eq!(unsigned.body_hash(), Some(hash));
        check(
            &signer,
            &[MESSAGE.to_owned()],
            std::slice::from_ref(&unsigned),
        );
    }
    let unknown = "From: a@other.test\r\n\r\n";
    let count = signer.prepare(unknown.as_bytes(), None, NOW, &mut unsigned);
    assert_eq!((count.expect("a From"), unsigned.is_empty()), (0, true));
    assert_eq!(unsigned.body_hash(), None);
    signer
        .prepare(b"Subject: x\r\n\r\n", None, NOW, &mut unsigned)
        .expect_err("no From");
    assert!(unsigned.is_empty());
}

/// By the book, slowly.
fn product(left: &Factor, right: &Factor) -> Vec<u8> {
    let mut words = vec![0u64; left.len() + right.len()];
    for (i, a) in left.iter().enumerate() {
        let mut carry = 0;
        for (j, b) in right.iter().enumerate() {
            let sum = u128::from(*a) * u128::from(*b) + u128::from(words[i + j]) + carry;
            words[i + j] = sum as u64;
            carry = sum >> 64;
        }
        words[i + right.len()] = carry as u64;
    }
    big_endian(&words)
}

fn big_endian(words: &[u64]) -> Vec<u8> {
    let bytes = words.iter().rev().flat_map(|word| word.to_be_bytes());
    bytes.collect()
}

#[test]
fn the_parts_of_a_key_are_its_own() {
    for file in ["rsa2048-pkcs8.pem", "rsa2048-p-below-q.pem"] {
        let pair = pair(file);
        let parts = Crt::new(&pair).expect("RSA-2048");
        let modulus = pair
            .public_key()
            .modulus()
            .big_endian_without_leading_zero();
        assert_eq!(product(&parts.p, &parts.q), modulus, "{file}");
        assert_eq!(big_endian(&parts.modulus), modulus, "{file}");
        assert!(parts.dp < parts.p || parts.dp.iter().any(|word| *word != 0));
        assert_eq!(format!("{parts:?}"), "Crt");
    }
}

#[test]
fn other_keys_are_not_for_batches() {
    let larger = rsa::KeyPair::generate(rsa::KeySize::Rsa3072).expect("key");
    assert!(BatchKey::new(&PrivateKey::Rsa(larger)).is_none());
    let other = PrivateKey::from_pem(&pem("ed25519.pem")).expect("key");
    assert!(BatchKey::new(&other).is_none());
    let auto = Batching::Auto { library: None };
    let signer = signer(&KEYS[1..2]).with_batching(&auto);
    assert_eq!(signer.batch_width(), 1);
}

proptest! {
    #[test]
    fn a_damaged_key_is_no_panic(cut in 0..1300usize, at in 0..1300usize, byte: u8) {
        static DER: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let der: Pkcs8V1Der<'_> = pair("rsa2048-pkcs8.pem").as_der().expect("DER");
            der.as_ref().to_vec()
        });
        let mut der = DER.clone();
        let at = at % der.len();
        der[at] = byte;
        let _ = Crt::from_pkcs8(&der);
        der.truncate(cut);
        prop_assert!(cut >= der.len() || Crt::from_pkcs8(&der).is_none());
    }
}

#[test]
fn what_is_not_the_library_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let text = directory.path().join("libcrypto_mb.so");
    std::fs::write(&text, "not a library").expect("file");
    let missing = directory.path().join("missing.so");
    for (path, expected) in [
        (
            missing.as_path(),
            "missing.so: cannot open shared object file",
        ),
        (text.as_path(), "libcrypto_mb.so: file too short"),
        // A library, but another one.
        (Path::new("libm.so.6"), "undefined symbol: mbx_"),
    ] {
        let error = Library::open(Some(path))
            .expect_err("no library")
            .to_string();
        assert!(error.contains(expected), "{error}");
        let auto = Batching::Auto {
            library: Some(path.into()),
        };
        let signer = signer(&KEYS).with_batching(&auto);
        assert_eq!(signer.batch_width(), 1);
    }
}

/// The library, or `None` and a reason on standard output.
fn library() -> Option<Library> {
    let path = std::env::var_os("HIKYAKU_CRYPTO_MB");
    match Library::open(path.as_ref().map(Path::new)) {
        Ok(library) => Some(library),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

#[test]
fn the_library_gives_the_bytes_of_single_signatures() {
    let Some(library) = library() else { return };
    let mut signer = signer(&KEYS);
    signer.batch = Some(Batch::new(library, batch_keys(&signer)).expect("a right library"));
    for count in [4, 7, 11, 12, 40] {
        let messages = messages(count);
        let mut unsigned = prepared(&signer, &messages);
        signer.sign_batch(&mut unsigned);
        assert!(made(&unsigned) >= LANES_MIN);
        assert_eq!(signer.batch_width(), LANES);
        check(&signer, &messages, &unsigned);
    }
}

#[test]
fn the_library_signs_for_several_threads() {
    let Some(library) = library() else { return };
    let mut signer = signer(&KEYS);
    signer.batch = Some(Batch::new(library, batch_keys(&signer)).expect("a right library"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let messages = messages(36);
                let mut unsigned = prepared(&signer, &messages);
                signer.sign_batch(&mut unsigned);
                assert_eq!(made(&unsigned), 24);
            });
        }
    });
    assert_eq!(signer.batch_width(), LANES);
}
