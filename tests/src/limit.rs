//! Programs of others, which may wait for what never comes: a registry, an editor, a lock.

use std::io::{self, Read, Seek};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// What a program said, which is killed after `limit` together with all that it started in its
/// own group, and has failed then. It has nothing to read. In a group of its own it also goes on when the test itself is killed.
///
/// # Errors
///
/// If it does not start.
pub fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    // Not pipes: whatever outlives the program would hold them open.
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(std::process::Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let mut child = command.spawn()?;
    let begun = Instant::now();
    let (killed, status) = loop {
        match child.try_wait() {
            Ok(Some(status)) => break (false, status),
            Ok(None) if begun.elapsed() <= limit => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                kill(&mut child);
                break (true, child.wait()?);
            }
        }
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for (file, bytes) in [(&mut out, &mut stdout), (&mut err, &mut stderr)] {
        file.rewind()?;
        file.read_to_end(bytes)?;
    }
    if killed {
        stderr.extend(format!("\nkilled after {limit:?}\n").bytes());
    }
    Ok(Output { status, stdout, stderr })
}

#[cfg(unix)]
fn kill(leader: &mut Child) {
    // Not waited for yet: the number is still its own.
    if let Ok(group) = i32::try_from(leader.id())
        && let Some(group) = rustix::process::Pid::from_raw(group)
    {
        _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(not(unix))]
fn kill(leader: &mut Child) {
    _ = leader.kill();
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_heard() {
        let output = output_within(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::MAX);
        let output = output.unwrap();
        assert_eq!(
            (output.status.code(), &output.stdout[..], &output.stderr[..]),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
    }

    #[test]
    fn what_does_not_end_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let (ended, end) = std::sync::mpsc::channel();
        let reader = fifo.clone();
        // To the end, which comes when nobody has it open for writing.
        std::thread::spawn(move || ended.send(std::fs::read(reader).unwrap()));
        let script = format!("(echo begun; exec sleep 1000) >{} & wait", fifo.display());
        let output = output_within(Command::new("sh").args(["-c", &script]), Duration::from_secs(5)).unwrap();
        assert!(!output.status.success());
        assert_eq!(end.recv_timeout(Duration::from_secs(300)).expect("the child is dead too"), b"begun\n");
        assert!(String::from_utf8_lossy(&output.stderr).contains("killed after 5s"), "{output:?}");
    }
}
