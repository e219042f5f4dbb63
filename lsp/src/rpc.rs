//! Messages on two streams, framed as the base protocol has it.
//!
//! What is malformed is answered and passed over: an editor's mistake must not end its server.

use std::io::{self, BufRead, Read, Write};

use lsp_server::{ErrorCode, Message, RequestId};
use serde_json::{Value, json};

/// Longest message that is taken; longer ones are skipped.
const MAX_BYTES: usize = 64 << 20;
/// Longest line of a header.
const MAX_HEADER: u64 = 8 << 10;

/// What comes in.
pub enum Incoming {
    /// A message.
    Message(Message),
    /// Something that is none, and what is to be answered.
    Malformed(Value),
}

/// Reads the next message; `None` at the end.
pub fn read(input: &mut impl BufRead) -> io::Result<Option<Incoming>> {
    let Some(length) = header(input)? else { return Ok(None) };
    if length > MAX_BYTES {
        io::copy(&mut input.take(length as u64), &mut io::sink())?;
        let why = format!("a message of {length} bytes, expected at most {MAX_BYTES}");
        return Ok(Some(malformed(None, ErrorCode::InvalidRequest, why)));
    }
    let mut body = Vec::new();
    if input.take(length as u64).read_to_end(&mut body)? < length {
        return Ok(None);
    }
    let value: Value = match serde_json::from_slice(&body) {
        Ok(value) => value,
        Err(error) => return Ok(Some(malformed(None, ErrorCode::ParseError, format!("no JSON: {error}")))),
    };
    let id = value.get("id").and_then(|id| serde_json::from_value::<RequestId>(id.clone()).ok());
    Ok(Some(match serde_json::from_value(value) {
        Ok(message) => Incoming::Message(message),
        Err(_) => malformed(id, ErrorCode::InvalidRequest, "no request, response or notification".to_owned()),
    }))
}

fn malformed(id: Option<RequestId>, code: ErrorCode, message: String) -> Incoming {
    Incoming::Malformed(json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code as i32, "message": message } }))
}

/// The length that a header states; lines that are no header are passed over.
fn header(input: &mut impl BufRead) -> io::Result<Option<usize>> {
    let mut length = None;
    loop {
        let mut line = Vec::new();
        if input.by_ref().take(MAX_HEADER).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        } else if text.is_empty()
            && let Some(length) = length
        {
            return Ok(Some(length));
        }
    }
}

/// Writes a message.
pub fn write(output: &mut impl Write, message: &Value) -> io::Result<()> {
    let text = message.to_string();
    write!(output, "Content-Length: {}\r\n\r\n{text}", text.len())?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        let mut input = bytes;
        let mut out = Vec::new();
        while let Some(incoming) = read(&mut input).unwrap() {
            out.push(match incoming {
                Incoming::Message(Message::Request(request)) => request.method,
                Incoming::Message(Message::Notification(notification)) => notification.method,
                Incoming::Message(Message::Response(_)) => "response".to_owned(),
                Incoming::Malformed(value) => format!("{} {}", value["error"]["code"], value["id"]),
            });
        }
        out
    }

    fn frame(body: &str) -> String {
        format!("Content-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn what_is_malformed_is_passed_over() {
        let good = frame(r#"{"jsonrpc":"2.0","id":1,"method":"shutdown"}"#);
        let parts = [
            frame("{\"jsonrpc\":"),
            frame("[]"),
            frame(r#"{"id":7,"neither":true}"#),
            "garbage\r\n\r\nmore garbage\n".to_owned(),
            "content-length:  44\r\nContent-Type: x\r\n\r\n".to_owned() + &good[good.len() - 44..],
            frame(&"[".repeat(100_000)),
            "Content-Length: -5\r\n\r\n".to_owned(),
            good,
        ];
        let answers = all(parts.concat().as_bytes());
        assert_eq!(answers, ["-32700 null", "-32600 null", "-32600 7", "shutdown", "-32700 null", "shutdown"]);
    }

    #[test]
    fn bytes_that_are_no_text_and_ends_in_the_middle() {
        assert_eq!(all(b"Content-Length: 2\r\n\r\n\xff\xfe"), ["-32700 null"]);
        assert_eq!(all(b"Content-Length: 20\r\n\r\n{}"), Vec::<String>::new());
        assert_eq!(all(b"Content-Length: 99999999999\r\n\r\n{}"), ["-32600 null"]);
        assert_eq!(all(&[b'x'; 100_000]), Vec::<String>::new());
    }
}
