//! Downloads from a model hub: resumed where an earlier try left off, followed through
//! redirects, with the access token for the hub alone.

use std::io::{Read, Write};
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body, Proxy};

use super::registry::HubFile;
use super::{BUFFER, OnPull, Part, PullEvent, PullOptions, note, proceed};
use crate::error::{Error, Result};

/// A hub that cannot be reached should not keep anybody waiting.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 8;
/// Largest file that is taken: several times the largest model that fits one machine.
const MAX_BYTES: u64 = 1 << 40;

/// What to download.
pub(super) struct Source<'a> {
    pub file: HubFile<String>,
    /// Its length and checksum, where they are known beforehand.
    pub size: Option<u64>,
    pub sha256: Option<&'a str>,
}

/// The answer that carries the file.
struct Answer {
    response: Response<Body>,
    /// SHA-256 that the hub gave on the way, or in the answer.
    sha256: Option<String>,
}

/// Fills the part and returns the checksum that it should have, where anybody says.
pub(super) fn download(
    source: &Source,
    options: &PullOptions,
    part: &Part,
    on_event: &mut OnPull,
) -> Result<Option<String>> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(Proxy::try_from_env())
        .user_agent(concat!("critic/", env!("CARGO_PKG_VERSION")))
        // Compression would make lengths and ranges those of another text.
        .accept_encoding("identity")
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .build()
        .into();
    let url = format!("{}{}", options.endpoint, source.file.url_path());
    // Without a checksum or a version, nobody could tell whether the two halves belong together.
    let resumable = |part: &Part| part.len() > 0 && (source.sha256.is_some() || part.etag().is_some());
    let mut from = if resumable(part) { part.len() } else { 0 };
    if source.size.is_some_and(|size| from >= size) {
        from = 0;
    }
    let mut answer = request(&agent, &url, from, options, part)?;
    if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // The part is not of this file, or already whole with nobody to say so.
        from = 0;
        answer = request(&agent, &url, from, options, part)?;
    }
    let status = answer.response.status();
    let resumed = status == StatusCode::PARTIAL_CONTENT && from > 0;
    if status != StatusCode::OK && !resumed {
        return Err(refusal(status, &url, source, options));
    }
    let etag = header_text(&answer.response, header::ETAG).filter(|etag| !etag.starts_with("W/"));
    let length = header_text(&answer.response, header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if resumed {
        let range = header_text(&answer.response, header::CONTENT_RANGE).unwrap_or_default();
        if !range.starts_with(&format!("bytes {from}-")) {
            let why = format!("answered with {range:?} when asked for all from byte {from}");
            return Err(Error::Network { what: url, why });
        }
        note(on_event, &format!("going on from byte {from}"))?;
    }
    let done = if resumed { from } else { 0 };
    let total = length.map(|length| length.saturating_add(done)).or(source.size);
    let limit = source.size.or(total).unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let file = if resumed { part.append()? } else { part.create(etag.as_deref())? };
    let body = answer.response.into_body().into_with_config().limit(u64::MAX).reader();
    receive(body, file, (done, total, limit), &url, part, on_event)?;
    Ok(source.sha256.map(str::to_owned).or(answer.sha256))
}

/// Copies the answer's body to the end of the part.
fn receive(
    mut body: impl Read,
    mut file: std::fs::File,
    (mut done, total, limit): (u64, Option<u64>, u64),
    url: &str,
    part: &Part,
    on_event: &mut OnPull,
) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        proceed(on_event(PullEvent::Download(done, total)))?;
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Err(broken_off(url, done, error)),
        };
        done += count as u64;
        if done > limit {
            part.remove();
            let why = format!("sends more than the {limit} bytes that the file has");
            return Err(Error::Network { what: url.to_owned(), why });
        }
        file.write_all(&buffer[..count]).map_err(Error::io(&part.path))?;
    }
    if total.is_some_and(|total| done < total) {
        return Err(broken_off(url, done, "the connection was closed"));
    }
    file.sync_all().map_err(Error::io(&part.path))
}

fn broken_off(url: &str, bytes: u64, why: impl std::fmt::Display) -> Error {
    Error::BrokenOff { what: url.to_owned(), bytes, why: why.to_string() }
}

/// Asks for the file from byte `from` on and follows redirects.
fn request(agent: &Agent, url: &str, from: u64, options: &PullOptions, part: &Part) -> Result<Answer> {
    let failed = |url: &str, why: String| Error::Network { what: url.to_owned(), why };
    let (home, mut url) = (origin(&options.endpoint)?, url.to_owned());
    let mut sha256 = None;
    for _ in 0..=MAX_REDIRECTS {
        let here = origin(&url)?;
        let mut request = agent.get(&url);
        if let Some(token) = options.token.as_ref().filter(|_| here == home) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            if let Some(etag) = part.etag() {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let response = request.call().map_err(|error| failed(&url, error.to_string()))?;
        if here == home {
            sha256 = sha256.or_else(|| linked_sha256(&response));
        }
        if !response.status().is_redirection() {
            return Ok(Answer { response, sha256 });
        }
        let location = header_text(&response, header::LOCATION).unwrap_or_default();
        let next = match location.starts_with('/') && !location.starts_with("//") {
            true => format!("{here}{location}"),
            false => location,
        };
        let safe = next.starts_with("https://") || (next.starts_with("http://") && here.starts_with("http://"));
        if !safe {
            return Err(failed(&url, format!("redirects to {next:?}, which is not a safe address")));
        }
        url = next;
    }
    Err(failed(&url, format!("more than {MAX_REDIRECTS} redirects")))
}

/// `scheme://host:port` of an address.
fn origin(url: &str) -> Result<String> {
    let bad = || Error::Network { what: url.to_owned(), why: "is not an http or https address".into() };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme @ ("http" | "https")), Some(authority)) => Ok(format!("{scheme}://{authority}")),
        _ => Err(bad()),
    }
}

/// The hub names large files by their SHA-256; other files have a name of another length.
fn linked_sha256(response: &Response<Body>) -> Option<String> {
    let etag = response.headers().get("x-linked-etag")?.to_str().ok()?;
    let name = etag.trim_start_matches("W/").trim_matches('"');
    (name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())).then(|| name.to_owned())
}

fn header_text(response: &Response<Body>, name: header::HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

fn refusal(status: StatusCode, url: &str, source: &Source, options: &PullOptions) -> Error {
    let HubFile { owner, repository, file, revision } = &source.file;
    let why = match status.as_u16() {
        401 | 403 if options.token.is_some() => {
            format!("refused ({status}): the token may not read {owner}/{repository}; has its licence been accepted?")
        }
        401 | 403 => format!(
            "refused ({status}): {owner}/{repository} is gated, private or absent; accept its licence on the hub \
             and set HF_TOKEN"
        ),
        404 => format!("not found: no {file} in {owner}/{repository} at {revision}"),
        _ => format!("answered {status}"),
    };
    match source.sha256 {
        // Another source may have it.
        Some(_) => Error::Network { what: url.to_owned(), why },
        None => Error::Refused { what: url.to_owned(), why },
    }
}
