//! A chat-completions server that fails as it is told. What it answers is a function of what it is asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What is answered.
pub enum Reply {
    /// A chat completion.
    Answer,
    /// A chat completion, but judgements are no letters.
    Nonsense,
    /// A status, and what `Retry-After` says.
    Status(u16, Option<&'static str>),
    /// A status, and all headers of the request in the body.
    Echo(u16),
    /// Status 200 and this body.
    Raw(&'static str),
    /// Nothing, and the connection stays open.
    Hang,
    /// Nothing, and it is closed.
    Close,
}

#[derive(Default)]
struct State {
    requests: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    over: AtomicBool,
    /// Number of each different request, and how often it was made.
    known: Mutex<HashMap<String, (usize, usize)>>,
    keys: Mutex<Vec<String>>,
    hanging: Mutex<Vec<TcpStream>>,
}

/// A running server; it ends when it is dropped.
pub struct Server {
    port: u16,
    state: Arc<State>,
}

impl Server {
    /// Starts one whose replies are `reply(number of the request among different ones, attempts before)`.
    pub fn start(reply: impl Fn(usize, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let (shared, reply) = (Arc::clone(&state), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.over.load(Ordering::Relaxed) {
                    break;
                }
                let (state, reply) = (Arc::clone(&shared), Arc::clone(&reply));
                std::thread::spawn(move || serve(stream.unwrap(), &state, &*reply));
            }
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::Relaxed)
    }

    pub fn keys(&self) -> Vec<String> {
        self.state.keys.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut stream: TcpStream, state: &State, reply: &dyn Fn(usize, usize) -> Reply) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut headers, mut length, mut line) = (String::new(), 0, String::new());
        while input.read_line(&mut line).is_ok_and(|count| count > 2) {
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if lower.starts_with("authorization:") {
                state.keys.lock().unwrap().push(line[14..].trim().to_owned());
            }
            headers += &line;
            line.clear();
        }
        if headers.is_empty() {
            return;
        }
        assert!(headers.starts_with("POST /v1/chat/completions HTTP/1.1"), "{headers}");
        let mut body = vec![0; length];
        if input.read_exact(&mut body).is_err() {
            return;
        }
        let body = String::from_utf8(body).unwrap();
        state.requests.fetch_add(1, Ordering::Relaxed);
        let now = state.now.fetch_add(1, Ordering::Relaxed) + 1;
        state.most.fetch_max(now, Ordering::Relaxed);
        let (number, attempt) = {
            let mut known = state.known.lock().unwrap();
            let next = known.len();
            let entry = known.entry(body.clone()).or_insert((next, 0));
            entry.1 += 1;
            (entry.0, entry.1 - 1)
        };
        let (status, after, text) = match reply(number, attempt) {
            Reply::Answer => (200, None, completion(&body, false)),
            Reply::Nonsense => (200, None, completion(&body, true)),
            Reply::Status(status, after) => (status, after, "{\"error\": \"no\"}".to_owned()),
            Reply::Echo(status) => (status, None, headers.clone()),
            Reply::Raw(text) => (200, None, text.to_owned()),
            Reply::Hang => {
                state.now.fetch_sub(1, Ordering::Relaxed);
                state.hanging.lock().unwrap().push(stream);
                return;
            }
            Reply::Close => {
                state.now.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        };
        state.now.fetch_sub(1, Ordering::Relaxed);
        let after = after.map_or(String::new(), |after| format!("Retry-After: {after}\r\n"));
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{after}\r\n", text.len());
        if stream.write_all((head + &text).as_bytes()).is_err() {
            return;
        }
    }
}

/// A text that depends on the request alone; of a judge, a letter that depends on the answers.
fn completion(body: &str, nonsense: bool) -> String {
    let request: Value = serde_json::from_str(body).unwrap();
    let messages = request["messages"].as_array().unwrap();
    let last = messages.last().unwrap()["content"].as_str().unwrap();
    let hash = |text: &str| text.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let text = if last.ends_with("Say only the letter.") {
        if nonsense {
            "I like both, A and B.".to_owned()
        } else {
            let part = |name: &str, until: &str| {
                let rest = last.split_once(name).unwrap().1;
                hash(rest.split_once(until).unwrap().0) % 3
            };
            let (a, b) = if last.contains("Critique A:\n") {
                (part("Critique A:\n", "\n\nCritique B:"), part("Critique B:\n", "\n\nWhich"))
            } else {
                (part("Answer A:\n", "\n\nAnswer B:"), part("Answer B:\n", "\n\nWhich"))
            };
            // Where it sees no difference, it likes the first.
            if b > a { "B" } else { "A" }.to_owned()
        }
    } else {
        format!("text {:x} of {:x}", hash(body) % 0xffff, request["seed"].as_u64().unwrap())
    };
    let choice = json!({ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" });
    json!({ "choices": [choice], "usage": { "completion_tokens": 5 } }).to_string()
}
