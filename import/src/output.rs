//! Files appear whole or not at all: written under another name, synced, checked, renamed.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `path` with `write`; `check` sees the finished file before it gets its name.
pub(crate) fn write_whole<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T>,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<T> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".critic-");
    #[cfg(unix)]
    {
        // As any other new file: the process's umask decides, not the care for secrets that
        // temporary files get.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(folder).map_err(Error::io(path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
    let written = write(&mut writer)?;
    writer.into_inner().map_err(|error| Error::io(path)(error.into_error()))?;
    file.as_file().sync_all().map_err(Error::io(path))?;
    check(file.path())?;
    // What was written a piece at a time lies in small pages. Forgotten, it is read into the huge pages that a
    // mapped model asks for. Not being able to forget loses nothing but that.
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed);
    file.persist(path).map_err(|error| Error::io(path)(error.error))?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let write = |text: &'static [u8]| {
            move |out: &mut BufWriter<&File>| out.write_all(text).map_err(Error::io(Path::new("")))
        };
        write_whole(&path, write(b"old"), |_| Ok(())).unwrap();
        let failed = write_whole(&path, write(b"new"), |_| Err(Error::Template("bad".into())));
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
