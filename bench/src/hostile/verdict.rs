//! Settles the account of a hostile run: ledger, quarantine, receipts, and what must not have changed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::entries::{Entries, Kind};

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) valid: u64,
    pub(super) hostile: u64,
    pub(super) copies: u64,
    pub(super) duplicates: u64,
    pub(super) unlabelled: u64,
    pub(super) lost: u64,
    pub(super) quarantined: u64,
    pub(super) wrong_code: u64,
    pub(super) receipts_wrong: u64,
    pub(super) keys_repeated: u64,
    pub(super) keys_refused: u64,
    pub(super) growing_taken: u64,
    pub(super) faults: Vec<String>,
    pub(super) fault_count: u64,
}

impl Account {
    pub(super) fn fault(&mut self, what: String) {
        self.fault_count += 1;
        if self.faults.len() < 20 {
            self.faults.push(what);
        }
    }
}

/// What lies outside the drop directory and must stay as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outside(Vec<(String, u64, u64, u32, i64, u64)>);

/// Looks at it. Links counts and change times move with the hard links of the test itself.
pub(super) fn outside(dir: &Path) -> io::Result<Outside> {
    let mut seen = Vec::new();
    let mut paths: Vec<_> = fs::read_dir(dir.join("victims"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.push("/etc/passwd".into());
    paths.sort();
    for path in paths {
        let meta = fs::metadata(&path)?;
        let hash = xxh3_64(&fs::read(&path)?);
        let name = path.display().to_string();
        seen.push((
            name,
            meta.ino(),
            meta.len(),
            meta.mode(),
            meta.mtime(),
            hash,
        ));
    }
    Ok(Outside(seen))
}

/// Compares all of it.
pub(super) fn settle(entries: &Entries, account: &mut Account) -> io::Result<()> {
    let named = named_by_log(&entries.dir.join("log"))?;
    let copies = ledger(entries, account)?;
    let reasons = quarantine(entries, account)?;
    for part in ["new", "claimed"] {
        let left = fs::read_dir(entries.dir.join("drop").join(part))?.count();
        if left > 0 {
            account.fault(format!("{left} entries are left in {part}/"));
        }
    }
    for number in 0..entries.count {
        let copies = &copies[number as usize];
        let kind = entries.kind(number);
        let (may, must) = entries.recipients(number);
        let with = copies.iter().filter(|count| **count > 0).count() as u8;
        for (which, count) in (0..may).zip(copies) {
            let extra = u64::from(count.saturating_sub(1));
            let announced = named.get(&(number, which)).copied().unwrap_or(0);
            account.duplicates += extra;
            if extra > announced {
                account.unlabelled += extra - announced;
                account.fault(format!(
                    "{}: {extra} copies too many, {announced} announced",
                    Entries::address(number, which)
                ));
            }
        }
        if with < must {
            account.lost += u64::from(must - with);
            account.fault(format!(
                "entry {number} ({kind:?}): {with} of {must} recipients have a copy"
            ));
        }
        let codes = &reasons[number as usize];
        match kind {
            Kind::Eml | Kind::Bsmtp(_) => {
                account.valid += 1;
                if !codes.is_empty() {
                    account.fault(format!("entry {number} is valid and refused: {codes:?}"));
                }
                check_receipt(entries, account, number, false, "final", may);
            }
            Kind::Growing => {
                account.hostile += 1;
                account.growing_taken += u64::from(with);
                if codes.iter().any(|code| code != "changed") || (with == 0 && codes.is_empty()) {
                    account.fault(format!(
                        "growing entry {number}: copies {with}, codes {codes:?}"
                    ));
                }
            }
            Kind::Bad(bad) => {
                account.hostile += 1;
                account.quarantined += 1;
                if codes.len() != 1 || codes[0] != bad.code() {
                    account.wrong_code += 1;
                    account.fault(format!(
                        "entry {number} ({bad:?}) is in quarantine as {codes:?}, not once as {}",
                        bad.code()
                    ));
                }
                if bad.code() != "name" {
                    check_receipt(entries, account, number, false, "refused", 0);
                }
            }
            Kind::SameKey => {
                account.hostile += 1;
                if !codes.is_empty() {
                    account.fault(format!(
                        "entry {number}: same key, same content, and refused: {codes:?}"
                    ));
                }
                check_pair(entries, account, number, "repeated");
                account.keys_repeated += 1;
            }
            Kind::OtherKey => {
                account.hostile += 1;
                if with != 1 || *codes != ["key"] {
                    account.fault(format!("entry {number}: same key, other content: {with} taken, refused as {codes:?}"));
                }
                check_pair(entries, account, number, "refused");
                account.keys_refused += 1;
            }
        }
    }
    Ok(())
}

fn receipt(entries: &Entries, number: u64, second: bool) -> Option<Value> {
    let mut name = entries.name(number, second);
    name.push(".json");
    let bytes = fs::read(entries.dir.join("drop/receipts").join(name)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn check_receipt(
    entries: &Entries,
    account: &mut Account,
    number: u64,
    second: bool,
    state: &str,
    delivered: u8,
) {
    let receipt = receipt(entries, number, second).unwrap_or_default();
    if receipt["state"] != state || receipt["delivered"] != delivered {
        account.receipts_wrong += 1;
        account.fault(format!(
            "entry {number}: receipt should be {state} with {delivered} delivered: {receipt}"
        ));
    }
}

/// One of two files was taken, the other got `state`; both receipts name the same submission when it
/// was only repeated.
fn check_pair(entries: &Entries, account: &mut Account, number: u64, state: &str) {
    let both = [false, true].map(|second| receipt(entries, number, second).unwrap_or_default());
    let [first, second] = &both;
    let right = [(first, second), (second, first)]
        .into_iter()
        .any(|(taken, other)| {
            taken["state"] == "final"
                && taken["delivered"] == 1
                && other["state"] == state
                && (state == "refused" || taken["submission"] == other["submission"])
        });
    if !right {
        account.receipts_wrong += 1;
        account.fault(format!(
            "entry {number}: receipts of a pair: {first} and {second}"
        ));
    }
}

/// Copies per entry and recipient.
fn ledger(entries: &Entries, account: &mut Account) -> io::Result<Vec<[u16; 3]>> {
    let mut copies = vec![[0; 3]; entries.count as usize];
    for line in BufReader::new(File::open(entries.dir.join("ledger"))?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, hash, _, recipient] = *fields else {
            account.fault(format!("a line of the ledger is none: {line}"));
            continue;
        };
        account.copies += 1;
        let known = Entries::parse(recipient).filter(|(number, which)| {
            *number < entries.count && *which < entries.recipients(*number).0
        });
        let Some((number, which)) = known else {
            account.fault(format!("{recipient} must have nothing and has a copy"));
            continue;
        };
        copies[number as usize][usize::from(which)] += 1;
        let content = xxh3_64(Entries::content(number, which).as_bytes());
        if entries.kind(number) != Kind::Growing && hash != format!("{content:016x}") {
            account.fault(format!("{recipient} got another content"));
        }
    }
    Ok(copies)
}

/// Codes of the reasons in quarantine, per entry.
fn quarantine(entries: &Entries, account: &mut Account) -> io::Result<Vec<Vec<String>>> {
    let mut codes = vec![Vec::new(); entries.count as usize];
    let dir = entries.dir.join("drop/quarantine");
    let mut files = 0;
    for entry in fs::read_dir(&dir)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let Some(of) = text.strip_suffix(".reason") else {
            files += 1;
            if !dir.join(format!("{text}.reason")).is_file() {
                account.fault(format!("quarantine/{text} has no reason"));
            }
            continue;
        };
        if fs::symlink_metadata(dir.join(of)).is_err() {
            account.fault(format!("quarantine/{text} is a reason without its file"));
        }
        // <time>-<seq>-e<number>…
        let number = of
            .split('-')
            .nth(2)
            .and_then(|rest| rest.get(1..9)?.parse::<u64>().ok());
        let reason: Value = serde_json::from_slice(&fs::read(dir.join(&name))?).unwrap_or_default();
        let Some(codes) = number.and_then(|number| codes.get_mut(number as usize)) else {
            account.fault(format!("quarantine/{text} is none of ours"));
            continue;
        };
        codes.push(reason["code"].as_str().unwrap_or("?").to_owned());
        check_hex(entries, account, number.unwrap_or(0), &reason);
    }
    if files == 0 && entries.hostile > 0 {
        account.fault("nothing is in quarantine".to_owned());
    }
    Ok(codes)
}

/// A name that cannot be shown stands in the reason octet by octet.
fn check_hex(entries: &Entries, account: &mut Account, number: u64, reason: &Value) {
    let Kind::Bad(super::entries::Bad::Name(_)) = entries.kind(number) else {
        return;
    };
    let name = entries.name(number, false);
    let hex: String = name
        .as_bytes()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    if reason["file_hex"] != hex.as_str() && reason["file"].as_str().map(OsStr::new) != Some(&*name)
    {
        account.fault(format!(
            "entry {number}: its name is not in its reason: {reason}"
        ));
    }
}

use std::ffi::OsStr;

/// Recipients that a restart named as possible duplicates, and how often.
fn named_by_log(log: &Path) -> io::Result<HashMap<(u64, u8), u64>> {
    let mut named = HashMap::new();
    for entry in fs::read_dir(log)? {
        for line in BufReader::new(File::open(entry?.path())?).split(b'\n') {
            let line = line?;
            if memchr_in(&line)
                && let Ok(value) = serde_json::from_slice::<Value>(&line)
                && value["possible_duplicate"] == true
                && let Some(key) = value["recipient"].as_str().and_then(Entries::parse)
            {
                *named.entry(key).or_default() += 1;
            }
        }
    }
    Ok(named)
}

fn memchr_in(line: &[u8]) -> bool {
    let word = b"possible_duplicate";
    line.windows(word.len()).any(|window| window == word)
}
