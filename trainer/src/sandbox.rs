//! Runs untrusted programs: no network, no files but its own, and limits on time, memory, processes and
//! what is written.
//!
//! The walls are Linux namespaces, put up by bubblewrap (`bwrap`), and resource limits. Where they cannot
//! be put up, [`Sandbox::new`] refuses and says why; nothing is ever run without them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// What a program may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time.
    pub time: Duration,
    /// Bytes of address space of each process.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Bytes of one file, and of all together.
    pub file: u64,
    /// Open files of each process.
    pub open_files: u32,
    /// Bytes of output that are kept; the program is stopped when it writes more.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(5),
            memory: 512 << 20,
            processes: 16,
            file: 8 << 20,
            open_files: 64,
            output: 64 << 10,
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exit(i32),
    /// By a signal, say for too much memory.
    Signal,
    /// It was stopped when its time was over.
    Time,
    /// It was stopped when it had written too much.
    Output,
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote, as far as it was kept.
    pub stdout: String,
    /// The same of its errors.
    pub stderr: String,
}

/// Walls that were tried.
#[derive(Clone, Debug)]
pub struct Sandbox {
    limits: Limits,
    bwrap: PathBuf,
    prlimit: PathBuf,
    /// Gives up the rights of root first: its processes are not counted.
    setpriv: Option<PathBuf>,
}

/// An owner of nothing.
const NOBODY: &str = "64001";
const PYTHON: &str = "/usr/bin/python3";

impl Sandbox {
    /// Finds what puts the walls up, and tries it.
    pub fn new(limits: Limits) -> Result<Self> {
        if !cfg!(target_os = "linux") {
            return Err(refusal("it needs the namespaces of Linux"));
        }
        let bwrap = find("bwrap").ok_or_else(|| refusal("there is no bwrap (package bubblewrap)"))?;
        let prlimit = find("prlimit").ok_or_else(|| refusal("there is no prlimit (package util-linux)"))?;
        let setpriv = match is_root() {
            false => None,
            true => Some(find("setpriv").ok_or_else(|| refusal("there is no setpriv (package util-linux)"))?),
        };
        if !Path::new(PYTHON).exists() {
            return Err(refusal(&format!("there is no {PYTHON}")));
        }
        let sandbox = Self { limits, bwrap, prlimit, setpriv };
        let outcome = sandbox.run_python("print(6 * 7)")?;
        if outcome.ended != Ended::Exit(0) || outcome.stdout != "42\n" {
            let said = outcome.stderr.lines().next().unwrap_or("it said nothing").to_owned();
            return Err(refusal(&format!("bwrap does not work here: {said}")));
        }
        Ok(sandbox)
    }

    /// Runs a Python program.
    pub fn run_python(&self, source: &str) -> Result<Outcome> {
        let folder =
            tempfile::Builder::new().prefix("critic-sandbox-").tempdir().map_err(Error::io(Path::new("/tmp")))?;
        let program = folder.path().join("program.py");
        std::fs::write(&program, source).map_err(Error::io(&program))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The program runs as nobody, who has to get there.
            let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
            set(folder.path(), 0o755).and_then(|()| set(&program, 0o644)).map_err(Error::io(&program))?;
        }
        let mut command = self.command(&program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(Error::io(&self.bwrap))?;
        self.watch(child)
    }

    fn command(&self, program: &Path) -> Command {
        let Limits { memory, processes, file, open_files, time, .. } = self.limits;
        let mut command = match &self.setpriv {
            None => Command::new(&self.bwrap),
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs", "--"]);
                command.arg(&self.bwrap);
                command
            }
        };
        // With its parent everything behind the walls dies: the first process of a namespace takes all others along.
        command.args(["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]);
        command.args(["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]);
        if Path::new("/usr/lib64").exists() {
            command.args(["--symlink", "usr/lib64", "/lib64"]);
        }
        command.args(["--proc", "/proc", "--dev", "/dev", "--size", &file.to_string(), "--tmpfs", "/tmp"]);
        command.arg("--ro-bind").arg(program).args(["/program.py", "--chdir", "/tmp"]);
        command.args(["--setenv", "PATH", "/usr/bin", "--setenv", "LANG", "C.UTF-8", "--remount-ro", "/", "--"]);
        // Inside, where processes are counted from zero.
        command.arg(&self.prlimit);
        command.arg(format!("--as={memory}")).arg(format!("--nproc={processes}")).arg(format!("--fsize={file}"));
        command.arg(format!("--nofile={open_files}")).arg(format!("--cpu={}", time.as_secs() + 1)).arg("--core=0");
        command.args(["--", PYTHON, "-I", "-S", "/program.py"]);
        command
    }

    fn watch(&self, mut child: Child) -> Result<Outcome> {
        /// Between two looks at the program.
        const LOOK: Duration = Duration::from_millis(2);
        let deadline = Instant::now() + self.limits.time;
        let limit = self.limits.output;
        let stdout = reader(child.stdout.take().expect("it is piped"), limit);
        let stderr = reader(child.stderr.take().expect("it is piped"), limit);
        let ended = loop {
            if let Some(status) = child.try_wait().map_err(Error::io(&self.bwrap))? {
                // bwrap reports a signal as 128 + its number.
                break match status.code() {
                    Some(code) if code < 128 => Ended::Exit(code),
                    _ => Ended::Signal,
                };
            }
            let over = if stdout.is_over() || stderr.is_over() { Some(Ended::Output) } else { None };
            let over = over.or((Instant::now() >= deadline).then_some(Ended::Time));
            if let Some(ended) = over {
                child.kill().and_then(|()| child.wait()).map_err(Error::io(&self.bwrap))?;
                break ended;
            }
            std::thread::sleep(LOOK);
        };
        Ok(Outcome { ended, stdout: stdout.finish(), stderr: stderr.finish() })
    }
}

/// Reads what a program writes, up to a limit.
struct Reader {
    thread: std::thread::JoinHandle<Vec<u8>>,
    over: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

fn reader(input: impl Read + Send + 'static, limit: usize) -> Reader {
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&over);
    let thread = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks ends what there is.
        _ = input.take(limit as u64 + 1).read_to_end(&mut bytes);
        if bytes.len() > limit {
            bytes.truncate(limit);
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        bytes
    });
    Reader { thread, over }
}

impl Reader {
    fn is_over(&self) -> bool {
        self.over.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn finish(self) -> String {
        String::from_utf8_lossy(&self.thread.join().unwrap_or_default()).into_owned()
    }
}

fn refusal(why: &str) -> Error {
    Error::Invalid(format!("no sandbox, and programs are not run without one: {why}"))
}

/// A program in the folders where systems keep theirs.
fn find(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|p| p.exists())
}

#[cfg(target_os = "linux")]
fn is_root() -> bool {
    use std::os::linux::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.st_uid() == 0)
}

#[cfg(not(target_os = "linux"))]
fn is_root() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sandbox, or a word that it was not tested.
    fn sandbox(limits: Limits) -> Option<Sandbox> {
        match Sandbox::new(limits) {
            Ok(sandbox) => Some(sandbox),
            Err(error) => {
                eprintln!("NOT TESTED: {error}");
                assert!(error.to_string().contains("programs are not run without one"));
                None
            }
        }
    }

    fn run(source: &str) -> Option<Outcome> {
        sandbox(Limits::default()).map(|sandbox| sandbox.run_python(source).unwrap())
    }

    #[test]
    fn a_program_runs() {
        let Some(found) = run("import sys, json\nprint(json.dumps({'a': 1}))\nsys.stderr.write('x')\nsys.exit(3)")
        else {
            return;
        };
        assert_eq!((found.ended, found.stdout.as_str(), found.stderr.as_str()), (Ended::Exit(3), "{\"a\": 1}\n", "x"));
    }

    #[test]
    fn an_endless_loop_is_stopped() {
        let Some(sandbox) = sandbox(Limits { time: Duration::from_millis(500), ..Limits::default() }) else { return };
        assert_eq!(sandbox.run_python("while True: pass").unwrap().ended, Ended::Time);
        // One that closes its output and sleeps, too.
        let quiet = "import os, time\nos.close(1); os.close(2)\ntime.sleep(1000)";
        assert_eq!(sandbox.run_python(quiet).unwrap().ended, Ended::Time);
    }

    #[test]
    fn a_fork_bomb_does_not_grow() {
        let Some(sandbox) = sandbox(Limits { time: Duration::from_secs(2), ..Limits::default() }) else { return };
        let bomb = "
import os, time
n = 0
try:
    while n < 1000:
        if os.fork() == 0:
            time.sleep(100)
            os._exit(0)
        n += 1
except BlockingIOError:
    print('refused')
print(n)";
        let found = sandbox.run_python(bomb).unwrap();
        let count: u32 = found.stdout.lines().last().unwrap().parse().unwrap();
        assert!(found.stdout.starts_with("refused") && count < 16, "{found:?}");
        let wild = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass";
        assert_eq!(sandbox.run_python(wild).unwrap().ended, Ended::Time);
        assert_eq!(processes_of_nobody(), 0, "all are gone");
    }

    /// Processes of the sandbox's user that are left, outside of other tests' sandboxes.
    fn processes_of_nobody() -> usize {
        let of = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| of(path.join("cmdline")).contains("os.fork"))
            .count()
    }

    #[test]
    fn a_hundred_gigabytes_are_refused() {
        let Some(found) =
            run("try:\n    x = bytearray(100 << 30)\n    print('got it')\nexcept MemoryError:\n    print('refused')")
        else {
            return;
        };
        assert_eq!(found.stdout, "refused\n", "{found:?}");
        // Little by little: stopped by the limit, by an exception or a signal. Memory is slow to be had where the
        // machine is busy.
        let Some(sandbox) = sandbox(Limits { time: Duration::from_secs(120), ..Limits::default() }) else { return };
        let found = sandbox.run_python("x = []\nwhile True: x.append(bytearray(1 << 26))").unwrap();
        assert_ne!(found.ended, Ended::Exit(0));
        assert_ne!(found.ended, Ended::Time);
    }

    #[test]
    fn nothing_outside_is_read_or_written() {
        let canary = tempfile::Builder::new().prefix("critic-canary-").tempfile().unwrap();
        std::fs::write(canary.path(), "intact").unwrap();
        let source = format!(
            "
import os
for path, mode in [('/etc/passwd', 'r'), ('/etc/shadow', 'r'), ('{canary}', 'r'), ('{canary}', 'w'), ('/x', 'w'),
                   ('/usr/bin/x', 'w'), ('/program.py', 'w'), ('/proc/sysrq-trigger', 'w'), ('/root/x', 'w')]:
    try:
        open(path, mode).close()
        print('OPENED', path, mode)
    except OSError:
        pass
print(sorted(os.listdir('/')), os.environ.get('HOME'))",
            canary = canary.path().display()
        );
        let Some(found) = run(&source) else { return };
        // In its own /tmp it may write where a file of that name lies outside.
        let opened: Vec<&str> = found.stdout.lines().filter(|line| line.starts_with("OPENED")).collect();
        let own = format!("OPENED {} w", canary.path().display());
        assert!(opened.iter().all(|line| *line == own), "{found:?}");
        assert!(found.stdout.contains("'proc', 'program.py', 'tmp', 'usr'] None"), "{found:?}");
        assert_eq!(std::fs::read_to_string(canary.path()).unwrap(), "intact");
    }

    #[test]
    fn files_are_bounded() {
        let Some(found) = run("
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
count = 0
try:
    for at in range(100):
        with open(f'/tmp/{at}', 'wb') as file:
            file.write(b'x' * (1 << 20))
            count += 1
except OSError as error:
    print('refused')
print(count)")
        else {
            return;
        };
        let count: usize = found.stdout.lines().last().unwrap().parse().unwrap();
        assert!(found.stdout.starts_with("refused") && count <= 8, "{found:?}");
    }

    #[test]
    fn no_socket_reaches_anybody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let source = format!(
            "
import socket
for address in [('127.0.0.1', {port}), ('1.1.1.1', 80)]:
    try:
        socket.create_connection(address, timeout=1)
        print('CONNECTED', address)
    except OSError as error:
        print('refused')"
        );
        let Some(found) = run(&source) else { return };
        assert_eq!(found.stdout, "refused\nrefused\n", "{found:?}");
    }

    #[test]
    fn its_parent_survives() {
        let source = format!(
            "
import os, signal
for pid in [os.getppid(), 1, {}]:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
print('alive')",
            std::process::id()
        );
        let Some(found) = run(&source) else { return };
        // We are here to look.
        assert_eq!((found.ended, found.stdout.as_str()), (Ended::Exit(0), "alive\n"), "{found:?}");
    }

    #[test]
    fn endless_output_is_stopped() {
        let Some(found) = run("while True: print('x' * 1000)") else { return };
        assert_eq!((found.ended, found.stdout.len()), (Ended::Output, Limits::default().output));
    }
}
