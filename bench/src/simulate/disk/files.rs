//! The spool's files, by their names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("seg-"))
}

pub(super) fn is_map(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "indoubt.map")
        && !path.parent().is_some_and(|dir| dir.ends_with("quarantine"))
}

pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

pub(super) fn shards_in(spool: &Path) -> Vec<PathBuf> {
    let mut dirs = list(spool).unwrap_or_default();
    dirs.retain(|dir| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("shard-"))
    });
    dirs
}

pub(super) fn maps_in(spool: &Path) -> Vec<PathBuf> {
    let mut maps: Vec<PathBuf> = shards_in(spool)
        .iter()
        .map(|dir| dir.join("indoubt.map"))
        .collect();
    maps.retain(|map| map.exists());
    maps
}
