//! Files and folders that appear whole or not at all.
//!
//! Written under another name beside their place, synced, renamed, and the folder synced too:
//! after a power cut there is the old one or the new one, and never half of either.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What names of unfinished files and folders begin with.
const UNFINISHED: &str = ".unfinished-";

/// Writes the file `path` with `write`. A failure leaves what was there before.
pub fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = parent(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        // As any other new file: temporary ones are readable by their owner alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(folder).map_err(Error::io(path))?;
    let mut writer = BufWriter::new(file.as_file());
    write(&mut writer).map_err(Error::io(path))?;
    writer.into_inner().map_err(|error| Error::io(path)(error.into_error()))?;
    file.as_file().sync_all().map_err(Error::io(path))?;
    file.persist(path).map_err(|error| Error::io(path)(error.error))?;
    sync_folder(folder)
}

/// Writes the bytes of the file `path`.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |out| out.write_all(bytes))
}

/// Writes the file `path`, a line of JSON for each item.
pub fn write_lines<T: Serialize>(path: &Path, items: &[T]) -> Result<()> {
    write_file(path, |out| {
        for item in items {
            serde_json::to_writer(&mut *out, item)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// Makes the folder `path` with what `fill` puts into it. One of that name is replaced, and is
/// still there if `fill` fails.
pub fn write_folder<T>(path: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let new = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder).map_err(Error::io(path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(new.path(), fs::Permissions::from_mode(0o755)).map_err(Error::io(path))?;
    }
    let filled = fill(new.path())?;
    sync_tree(new.path())?;
    let old = path.exists().then(|| tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder));
    if let Some(old) = old.transpose().map_err(Error::io(path))? {
        // A folder cannot be renamed over one that is not empty. Between the two renames a
        // crash leaves neither; what was there can be made again, which is why it is replaced.
        fs::rename(path, old.path().join("replaced")).map_err(Error::io(path))?;
    }
    let new = new.keep();
    fs::rename(&new, path).map_err(|error| {
        _ = fs::remove_dir_all(&new);
        Error::io(path)(error)
    })?;
    sync_folder(folder)?;
    Ok(filled)
}

/// Removes what a process that was killed left unfinished in `folder`.
pub fn remove_unfinished(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let unfinished = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
        if unfinished {
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(folder: &Path) -> Result<()> {
    // Elsewhere a folder cannot be opened as a file, and renames need no help.
    if cfg!(unix) { File::open(folder).and_then(|file| file.sync_all()).map_err(Error::io(folder)) } else { Ok(()) }
}

fn sync_tree(folder: &Path) -> Result<()> {
    for path in listed(folder)? {
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Windows syncs files that are open for writing only.
            let file = File::options().read(true).write(cfg!(windows)).open(&path);
            file.and_then(|file| file.sync_all()).map_err(Error::io(&path))?;
        }
    }
    sync_folder(folder)
}

/// The entries of `folder` in the order of their names.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>().map_err(Error::io(folder))?;
    paths.sort();
    Ok(paths)
}

/// SHA-256 of bytes.
pub fn sha256_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a file; of a folder, that of its files' names and sums.
pub fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    if path.is_dir() {
        for entry in listed(path)? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Hidden ones are notes of tools and editors.
            if entry.is_file() && !name.starts_with('.') {
                hash.update(format!("{name}\0{}\n", sha256(&entry)?));
            }
        }
    } else {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(Error::io(path))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        listed(folder).unwrap().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write_bytes(&path, b"old").unwrap();
        let failed = write_file(&path, |out| {
            out.write_all(b"half of the new")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        let message = failed.unwrap_err().to_string();
        assert!(message.contains("state.json") && message.contains("make room and resume the run"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["state.json"]);
    }

    #[test]
    fn folders_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints/step-000001");
        let put = |text: &'static str| move |at: &Path| write_bytes(&at.join(text), text.as_bytes());
        write_folder(&path, put("first")).unwrap();
        write_folder(&path, put("second")).unwrap();
        assert_eq!(names(&path), ["second"]);
        let failed = write_folder(&path, |at| {
            write_bytes(&at.join("third"), b"3")?;
            Err::<(), _>(Error::Cancelled)
        });
        assert!(matches!(failed, Err(Error::Cancelled)));
        assert_eq!(names(&path), ["second"]);
        assert_eq!(names(path.parent().unwrap()), ["step-000001"]);
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".unfinished-1")).unwrap();
        fs::write(folder.path().join(".unfinished-1/x"), "x").unwrap();
        fs::write(folder.path().join(".unfinished-2"), "x").unwrap();
        fs::write(folder.path().join("kept"), "x").unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["kept"]);
    }

    #[test]
    fn sums_of_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-4's example.
        assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let before = sha256(folder.path()).unwrap();
        fs::rename(&path, folder.path().join("b")).unwrap();
        assert_ne!(sha256(folder.path()).unwrap(), before);
    }

    /// A file system of 64 KiB that is full. Needs the right to mount, as root in a container has.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mount = |arguments: &[&str]| {
            let run = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(folder.path()).output();
            run.is_ok_and(|output| output.status.success())
        };
        if !mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
            eprintln!("NOT TESTED: a full disk: mounting a small file system is not allowed here");
            return;
        }
        let path = folder.path().join("metrics");
        let outcome = std::panic::catch_unwind(|| {
            write_bytes(&path, &[1; 40_000]).unwrap();
            let error = write_bytes(&path, &[2; 40_000]).unwrap_err();
            assert!(error.to_string().contains("make room and resume the run"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), [1; 40_000]);
            assert_eq!(names(folder.path()), ["metrics"]);
            crate::run::tests::journal_on_a_full_disk(folder.path());
            crate::collect::ledger::tests::ledger_on_a_full_disk(folder.path());
        });
        assert!(mount(&["umount"]));
        outcome.unwrap();
    }
}
