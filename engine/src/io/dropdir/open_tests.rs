//! What can serve as a drop directory, and one that goes while it serves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::Receipt;
use super::super::testing::*;
use super::*;
use crate::mail::id::SubmissionId;

#[test]
fn parts_are_made_with_their_modes() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("drop");
    fs::create_dir(&dir).unwrap();
    // Made by a producer, and left as it is.
    fs::create_dir(dir.join("new")).unwrap();
    fs::set_permissions(dir.join("new"), fs::Permissions::from_mode(0o777)).unwrap();
    let drop_dir = open(&dir);
    let mode = |part: &str| fs::metadata(dir.join(part)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("new"), 0o777);
    // Set-group-id is dropped where the user is not in the group.
    for (part, expected) in [
        ("tmp", 0o3770),
        ("claimed", 0o700),
        ("receipts", 0o2750),
        ("quarantine", 0o2750),
    ] {
        assert_eq!(mode(part) & !0o2000, expected & !0o2000, "{part}");
    }
    assert!(drop_dir.still_there());
    assert!(matches!(
        DropDir::open(&dir, DropLimits::default()),
        Err(DropDirError::InUse(_))
    ));
    drop(drop_dir);
    fs::set_permissions(dir.join("claimed"), fs::Permissions::from_mode(0o777)).unwrap();
    drop(open(&dir));
    assert_eq!(mode("claimed"), 0o700);
}

#[test]
fn what_cannot_be_a_drop_directory() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(
        DropDir::open(&file, DropLimits::default()),
        Err(DropDirError::NotADirectory(_))
    ));
    let dir = tmp.path().join("drop");
    fs::create_dir(&dir).unwrap();
    symlink(tmp.path(), dir.join("new")).unwrap();
    let error = DropDir::open(&dir, DropLimits::default()).unwrap_err();
    assert!(
        matches!(&error, DropDirError::NotADirectory(path) if path.ends_with("new")),
        "{error}"
    );
    let missing = tmp.path().join("a/b");
    assert!(matches!(
        DropDir::open(&missing, DropLimits::default()),
        Err(DropDirError::Io { what: "make", .. })
    ));
}

#[test]
fn a_directory_that_goes_and_comes_back_is_opened_again() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("drop");
    let mut drop_dir = open(&path);
    put(&path, "x.eml", "x");
    let claimed = drop_dir.claim("x.eml", SubmissionId(1), NOW).unwrap();
    // Only new/ is replaced: the lock on claimed/ is our own.
    fs::remove_dir(path.join("new")).unwrap();
    assert!(!drop_dir.still_there() && drop_dir.reopen().is_err());
    fs::create_dir(path.join("new")).unwrap();
    drop_dir.reopen().unwrap();
    assert!(drop_dir.still_there());
    assert!(matches!(
        DropDir::open(&path, DropLimits::default()),
        Err(DropDirError::InUse(_))
    ));
    drop_dir.done(&claimed, NOW).unwrap();
    assert!(names(&path, "claimed").is_empty());
    // All of it is gone: as below a mount point, nothing is made in its place.
    fs::rename(&path, tmp.path().join("old")).unwrap();
    assert!(!drop_dir.still_there() && drop_dir.reopen().is_err() && !path.exists());
    fs::create_dir(&path).unwrap();
    assert!(drop_dir.reopen().is_err() && names(&path, ".").is_empty());
    fs::create_dir(path.join("new")).unwrap();
    drop_dir.reopen().unwrap();
    put(&path, "y.eml", "y");
    assert_eq!(scan_all(&mut drop_dir).0, ["y.eml"]);
}

#[test]
fn the_producers_group_and_its_receipts() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("drop");
    let groups = rustix::process::getgroups().unwrap();
    let own = rustix::process::getegid();
    let root = rustix::process::geteuid().is_root();
    let other = groups
        .into_iter()
        .find(|group| *group != own)
        .map(|group| group.as_raw());
    let Some(group) = other.or(root.then_some(12_345)) else {
        eprintln!("skipped: not root, and in no second group that the directory could be given to");
        return;
    };
    let limits = DropLimits {
        group: Some(group),
        ..DropLimits::default()
    };
    let drop_dir = DropDir::open(&path, limits.clone()).unwrap();
    for part in ["", "tmp", "new", "receipts", "quarantine"] {
        let stat = rustix::fs::stat(path.join(part)).unwrap();
        assert_eq!(
            (stat.st_gid, stat.st_mode & 0o2000),
            (group, 0o2000),
            "{part}"
        );
    }
    let receipt = Receipt::repeated("x.eml", SubmissionId(1), NOW.wall);
    drop_dir.write_receipt("x.eml", &receipt).unwrap();
    let stat = rustix::fs::stat(path.join("receipts/x.eml.json")).unwrap();
    assert_eq!((stat.st_gid, stat.st_mode & 0o777), (group, 0o640));
    drop(drop_dir);
    if root {
        return;
    }
    let limits = DropLimits {
        group: Some(0),
        ..limits
    };
    let error = DropDir::open(&path, limits).unwrap_err();
    assert!(matches!(error, DropDirError::Group { .. }), "{error}");
}
