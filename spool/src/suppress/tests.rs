//! The list as its users see it.

use super::*;

fn entry(address: &str, scope: &str) -> Entry {
    Entry {
        address: address.into(),
        scope: scope.into(),
        added_wall_ms: 7,
        reason: "unsubscribe".into(),
    }
}

#[test]
fn scopes_are_told_apart_and_letters_folded() {
    let dir = tempfile::tempdir().unwrap();
    let list = Suppressions::open(&dir.path().join("s")).unwrap();
    let entries = [
        entry("John@Example.com", "sender:shop.example"),
        entry("a@b.example", "global"),
    ];
    assert_eq!(list.add(&entries).unwrap(), 2);
    assert_eq!(list.add(&entries).unwrap(), 0, "again changes nothing");
    let shop = Scope::Sender("SHOP.example");
    let cases = [
        ("john@example.COM", &[Scope::Global, shop][..], Some(shop)),
        (
            "john@example.com",
            &[Scope::Global, Scope::List("shop.example")],
            None,
        ),
        ("A@B.example", &[shop, Scope::Global], Some(Scope::Global)),
        ("nobody@b.example", &[Scope::Global], None),
    ];
    for (address, scopes, expected) in cases {
        assert_eq!(list.check(address, scopes).unwrap(), expected, "{address}");
    }
    assert_eq!(list.len().unwrap(), 2);
    assert!(list.remove("JOHN@example.com", shop).unwrap());
    assert!(!list.remove("john@example.com", shop).unwrap());
    assert_eq!(list.check("john@example.com", &[shop]).unwrap(), None);
}

#[test]
fn entries_come_out_as_they_went_in_and_stay_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<Entry> = (0..500)
        .map(|n| entry(&format!("u{n}@x.example"), "list:news"))
        .collect();
    {
        let list = Suppressions::open(dir.path()).unwrap();
        assert_eq!(list.add(&many).unwrap(), 500);
    }
    let list = Suppressions::open(dir.path()).unwrap();
    let view = list.view().unwrap();
    let mut out: Vec<Entry> = view.entries().unwrap().map(Result::unwrap).collect();
    out.sort_by_key(|entry| {
        entry.address[1..]
            .split('@')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    });
    assert_eq!(out, many);
}

#[test]
fn a_view_sees_one_moment_and_a_check_sees_now() {
    let dir = tempfile::tempdir().unwrap();
    let list = Suppressions::open(dir.path()).unwrap();
    let view = list.view().unwrap();
    list.add(&[entry("a@b.example", "global")]).unwrap();
    assert_eq!(view.check("a@b.example", &[Scope::Global]).unwrap(), None);
    assert_eq!(
        list.check("a@b.example", &[Scope::Global]).unwrap(),
        Some(Scope::Global)
    );
}

#[test]
fn what_is_longer_than_any_address_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let list = Suppressions::open(dir.path()).unwrap();
    let both = [
        entry("a@b.example", "global"),
        entry(&"x".repeat(400), "global"),
    ];
    assert!(matches!(
        list.add(&both),
        Err(SuppressError::TooLong { octets: 400, .. })
    ));
    assert!(list.is_empty().unwrap());
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<Entry> {
    numbers
        .map(|n| entry(&format!("u{n}@x.example"), "list:news"))
        .collect()
}

/// All entries, and that a check finds exactly these of `numbered(0..asked)`.
fn consistent(list: &Suppressions, asked: u32) -> Vec<Entry> {
    let view = list.view().unwrap();
    let mut out: Vec<Entry> = view.entries().unwrap().map(Result::unwrap).collect();
    out.sort_by(|a, b| a.address.cmp(&b.address));
    let there: std::collections::HashSet<&str> = out.iter().map(|entry| &*entry.address).collect();
    for entry in numbered(0..asked) {
        let scopes = [Scope::Global, Scope::List("news")];
        let found = view.check(&entry.address, &scopes).unwrap();
        assert_eq!(found.is_some(), there.contains(&*entry.address));
    }
    assert_eq!(list.len().unwrap(), out.len() as u64);
    out
}

#[test]
fn an_import_is_the_same_whether_it_fits_into_memory_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for memory in [1 << 30, 10_000, 1] {
        let list = Suppressions::open(&dir.path().join(memory.to_string())).unwrap();
        list.add(&numbered(900..1_100)).unwrap();
        let mut import = Import::new(&list, memory);
        for entry in numbered(0..20_000).iter().chain(&numbered(5..7)) {
            import.push(entry).unwrap();
        }
        assert_eq!((import.len(), list.len().unwrap()), (20_002, 200));
        let mut told = Vec::new();
        let added = import.finish(|seen, added| told.push((seen, added)));
        assert_eq!(added.unwrap(), 19_800);
        assert_eq!(told.last(), Some(&(20_002, 19_800)));
        assert_eq!(told.len() == 1, memory == 1 << 30, "{told:?}");
        all.push(consistent(&list, 20_100));
        let names: Vec<_> = fs::read_dir(&list.path).unwrap().collect();
        assert_eq!(names.len(), 2, "nothing but LMDB's files: {names:?}");
    }
    assert_eq!(all[0].len(), 20_000);
    assert!(all[0] == all[1] && all[1] == all[2]);
}

#[test]
fn buckets_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let list = Suppressions::open(dir.path()).unwrap();
    for begin in (0..21_000).step_by(7_000) {
        assert_eq!(list.add(&numbered(begin..begin + 7_000)).unwrap(), 7_000);
    }
    assert_eq!(consistent(&list, 21_100).len(), 21_000);
    for entry in numbered(0..300) {
        assert!(list.remove(&entry.address, Scope::List("news")).unwrap());
        assert!(!list.remove(&entry.address, Scope::List("news")).unwrap());
    }
    assert_eq!(consistent(&list, 21_100).len(), 20_700);
    assert_eq!(list.add(&numbered(0..600)).unwrap(), 300);
    assert_eq!(consistent(&list, 21_100).len(), 21_000);
    let one = Suppressions::open(&dir.path().join("one")).unwrap();
    assert_eq!(one.add(&numbered(0..1)).unwrap(), 1);
    assert!(one.remove("u0@x.example", Scope::List("news")).unwrap());
    assert!(consistent(&one, 2).is_empty());
    assert_eq!(one.add(&numbered(0..2)).unwrap(), 2);
    assert_eq!(consistent(&one, 3).len(), 2);
}

#[test]
fn a_list_is_opened_and_asked_while_somebody_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let list = Suppressions::open(dir.path()).unwrap();
    list.add(&numbered(0..1)).unwrap();
    let writing = list.env.write_txn().unwrap();
    // The tables are found without the lock that `writing` holds: this would wait for ever.
    let (index, _, seed) = tables(&list.env).unwrap().unwrap();
    assert!(seed.is_some() && index.len(&list.env.read_txn().unwrap()).unwrap() == 1);
    assert_eq!(consistent(&list, 2).len(), 1);
    drop(writing);
}

#[test]
fn a_list_of_an_older_layout_is_refused_and_not_taken_for_empty() {
    for names in [&["keys", "entries"][..], &["index", "evidence", "meta"]] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(1 << 20).max_dbs(3);
        let env = open_environment(&options, dir.path()).unwrap();
        let mut txn = env.write_txn().unwrap();
        for name in names {
            let table: Table = env.create_database(&mut txn, Some(name)).unwrap();
            table.put(&mut txn, SEED, &[7; 8]).unwrap();
        }
        txn.commit().unwrap();
        env.prepare_for_closing().wait();
        for _ in 0..2 {
            let error = Suppressions::open(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("of an earlier version: export it"),
                "{error}"
            );
        }
    }
}
