//! The map of in-doubt slots, whole, damaged, or somebody else's.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use hikyaku_spool::Doubt;
use hikyaku_spool::inspect::{BLOCK, doubts};

use crate::pieces::Reader;

const LOG: u16 = 3;
const SPOOL: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

/// Any bytes load. Behind a good header every slot that was stored whole comes back as it was, and no
/// other; behind a bad one nothing does.
pub fn indoubt(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        // Nobody guesses the header's checksum.
        assert_eq!(load(rest), None);
        return;
    }
    let mut input = Reader(rest);
    let slots = u32::from(choice >> 1) % 16;
    let mut bytes = header(slots, input.u64());
    let mut stored = Vec::new();
    for _ in 0..slots {
        let how = input.byte();
        let (seq, recipient, attempt, code) = (
            input.u64(),
            u32::from(input.u16()),
            input.u16(),
            input.u16(),
        );
        let state = match how % 4 {
            0 => Doubt::Sent,
            1 => Doubt::Accepted,
            2 => Doubt::Active,
            _ => Doubt::Refused,
        };
        let mut slot = slot(seq, recipient, attempt, state, code);
        match how >> 6 {
            0 => slot = [0; 64],
            1 => {
                // Torn, or rotten: any change of the three words that count.
                let at = usize::from(how / 3 % 24);
                let change = input.byte();
                slot[at] ^= change;
                if change == 0 {
                    stored.push((seq, recipient, attempt, state, code));
                }
            }
            _ => stored.push((seq, recipient, attempt, state, code)),
        }
        bytes.extend(slot);
    }
    let mut found = load(&bytes).expect("a map of this log");
    found.reverse();
    assert_eq!(found, stored);

    // The header, the length and the owner all count.
    let at = usize::from(input.byte()) % 56;
    if !(16..24).contains(&at) {
        let mut bad = bytes.clone();
        bad[at] ^= input.byte() | 1;
        assert_eq!(load(&bad), None, "header byte {at}");
    }
    assert_eq!(load(&bytes[..bytes.len() - 1]), None);
    bytes.extend([0; 64]);
    assert_eq!(load(&bytes), None);
}

type Slots = Vec<(u64, u32, u16, Doubt, u16)>;

fn load(bytes: &[u8]) -> Option<Slots> {
    thread_local! {
        static FILE: RefCell<Option<File>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| {
            let fd = rustix::fs::memfd_create("indoubt.map", rustix::fs::MemfdFlags::CLOEXEC);
            fd.expect("a file in memory").into()
        });
        file.set_len(0).expect("cut");
        file.write_all_at(bytes, 0).expect("written");
        let first = doubts(file, LOG, SPOOL).expect("readable");
        // Reading cleans up what is not whole; a second look sees the same.
        assert_eq!(doubts(file, LOG, SPOOL).expect("readable"), first);
        assert_eq!(
            doubts(file, LOG + 1, SPOOL).expect("readable"),
            None,
            "another log's"
        );
        first
    })
}

/// As `indoubt.rs` lays it out.
fn header(slots: u32, acked: u64) -> Vec<u8> {
    let mut words = [
        u64::from_le_bytes(*b"HKYDOUBT"),
        u64::from(slots) << 32 | 2,
        0,
        u64::from(LOG),
        SPOOL as u64,
        (SPOOL >> 64) as u64,
        0,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    words[6] = u64::from(crc32c::crc32c(&bytes));
    // The acknowledged batch changes with each commit and is not covered.
    words[2] = acked;
    let mut block: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    block.resize(BLOCK as usize, 0);
    block
}

fn slot(seq: u64, recipient: u32, attempt: u16, state: Doubt, code: u16) -> [u8; 64] {
    let number: u64 = match state {
        Doubt::Sent => 1,
        Doubt::Accepted => 2,
        Doubt::Refused => 3,
        Doubt::Active => 4,
    };
    let mut slot = [0; 64];
    slot[..8].copy_from_slice(&(number | u64::from(code) << 16).to_le_bytes());
    slot[8..16].copy_from_slice(&seq.to_le_bytes());
    slot[16..24].copy_from_slice(&(u64::from(recipient) | u64::from(attempt) << 32).to_le_bytes());
    let crc = crc32c::crc32c(&slot[..24]);
    slot[4..8].copy_from_slice(&crc.to_le_bytes());
    slot
}
