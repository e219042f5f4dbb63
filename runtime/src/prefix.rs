//! Prefixes on disk: what one session evaluated, mapped by the next one that begins alike.
//!
//! A file holds whole pages of the KV cache as they lie in memory, after a header that says
//! whose they are. Its numbers decide what a model says, never where memory is read. A file
//! that is damaged, or was half on disk when the power went, or is not for this model, is passed
//! over; who can write to the folder can make a model say something else.
//!
//! ```text
//! "critic-prefix 1\n"  16 bytes
//! model                8 bytes   identity of the base weights and of the layout of a page
//! tokens               8 bytes   their number, a multiple of a page's
//! sum                  8 bytes   check of the token ids and of all pages
//! token ids            4 bytes each
//! zeros up to a multiple of 4,096
//! pages
//! ```
//!
//! All numbers are little-endian. The keys and values of a text say what the text is: files
//! are made for their owner alone, and a host that must not leave texts behind asks for none.
//!
//! Not here: when a session looks for a prefix and when it leaves one (see
//! [`Session::set_prefix_cache`](crate::Session::set_prefix_cache)).

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::hash::Fnv;
use crate::kernels::attention::PAGE_TOKENS;
use crate::kv::Sequence;
use crate::map::{Bytes, Slice};
use crate::model::Model;

const MAGIC: &[u8; 16] = b"critic-prefix 1\n";
const HEADER: usize = 40;
/// Pages of a file begin on one of memory.
const ALIGNMENT: usize = 4096;
const EXTENSION: &str = "prefix";
/// Tokens that evaluating anew costs more than reading them back: below, nothing is left.
pub(crate) const LEAST: usize = 4 * PAGE_TOKENS;

/// A folder of prefixes, which sessions, also of several processes, share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCache {
    /// Where they lie; made when the first is written.
    pub folder: PathBuf,
    /// Most bytes of all files together: the ones that were not used for longest are removed.
    pub limit: u64,
}

/// A file's header.
struct Header {
    model: u64,
    sum: u64,
    tokens: Vec<u32>,
}

impl Header {
    fn read(file: &mut File) -> Option<Self> {
        let mut head = [0; HEADER];
        file.read_exact(&mut head).ok()?;
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if head[..16] != *MAGIC {
            return None;
        }
        let (model, count, sum) = (number(16), usize::try_from(number(24)).ok()?, number(32));
        // The file's own length bounds what is taken for it.
        let whole = count.is_multiple_of(PAGE_TOKENS) && (count as u64) < file.metadata().ok()?.len() / 4;
        let mut ids = vec![0; if whole { count * 4 } else { return None }];
        file.read_exact(&mut ids).ok()?;
        let id = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Some(Self { model, sum, tokens: ids.chunks_exact(4).map(id).collect() })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.model.to_le_bytes());
        bytes.extend((self.tokens.len() as u64).to_le_bytes());
        bytes.extend(self.sum.to_le_bytes());
        bytes.extend(self.tokens.iter().flat_map(|id| id.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }
}

impl PrefixCache {
    /// The folder, with a limit of 1 GiB.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), limit: 1 << 30 }
    }

    /// Puts the longest prefix of `tokens` that lies here into `sequence`, if it is longer than `known`
    /// tokens, and says how long it is. Files that cannot be read count as none.
    pub(crate) fn load(&self, identity: u64, tokens: &[u32], known: usize, sequence: &mut Sequence) -> Option<usize> {
        let mut best: Option<(usize, Header, PathBuf)> = None;
        for path in self.files() {
            let Some(header) = File::open(&path).ok().and_then(|mut file| Header::read(&mut file)) else { continue };
            let same = header.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            if header.model == identity && same > best.as_ref().map_or(known, |(longest, ..)| *longest) {
                best = Some((same, header, path));
            }
        }
        let (same, header, path) = best?;
        let bytes = Arc::new(Bytes::map(&path).ok()?);
        let start = header.bytes().len();
        let words = Slice::<u32>::new(&bytes, start..bytes.len())?;
        let whole = words.len() == header.tokens.len() / PAGE_TOKENS * sequence.page_words();
        if !whole || header.sum != sum([&header.tokens[..], &words]) {
            return None;
        }
        // For the order of removal; where it fails, the file is merely removed earlier.
        _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        sequence.replace_by_base(&header.tokens, &words);
        sequence.truncate(same);
        Some(same)
    }

    /// Leaves the whole pages of `sequence` here. A file of that name is replaced: it was not there to be loaded, or was
    /// damaged.
    pub(crate) fn store(&self, identity: u64, sequence: &Sequence) -> Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let pages: Vec<&[u32]> = sequence.base_pages().collect();
        let tokens = &sequence.tokens()[..pages.len() * PAGE_TOKENS];
        if tokens.len() < LEAST {
            return Ok(());
        }
        let of_tokens = tokens.iter().fold(Fnv::new(), |hash, id| hash.extend(&id.to_le_bytes())).finish();
        let name = format!("{identity:016x}-{of_tokens:016x}");
        let path = self.folder.join(name).with_extension(EXTENSION);
        let sum = sum(std::iter::once(tokens).chain(pages.iter().copied()));
        let header = Header { model: identity, sum, tokens: tokens.to_vec() }.bytes();
        make_folder(&self.folder).map_err(|source| Error::Io { path: self.folder.clone(), source })?;
        let unfinished =
            path.with_extension(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut out = BufWriter::with_capacity(1 << 20, options.open(&unfinished)?);
            out.write_all(&header)?;
            for page in &pages {
                // SAFETY: plain numbers of a little-endian machine: see `map`.
                out.write_all(unsafe { std::slice::from_raw_parts(page.as_ptr().cast(), size_of_val(*page)) })?;
            }
            out.flush()?;
            fs::rename(&unfinished, &path)
        };
        let written = write();
        if written.is_err() {
            _ = fs::remove_file(&unfinished);
        }
        written.map_err(|source| Error::Io { path: path.clone(), source })?;
        self.trim();
        Ok(())
    }

    /// Removes what was not used for longest, until the rest is within the limit.
    fn trim(&self) {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = self
            .files()
            .filter_map(|path| {
                let found = fs::metadata(&path).ok()?;
                Some((found.modified().ok()?, found.len(), path))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.limit {
                break;
            }
            // One that another process maps stays readable to it.
            if fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == EXTENSION))
    }
}

/// A folder for its owner alone.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// A check of all words in their order, eight bytes at a time: milliseconds where evaluating takes seconds. Every
/// step can be undone, so that one changed word always shows.
fn sum<'a>(parts: impl IntoIterator<Item = &'a [u32]>) -> u64 {
    let mut sum = 0_u64;
    for part in parts {
        // Parts are whole pages, and tokens of whole pages: their lengths are even.
        for &[low, high] in part.as_chunks::<2>().0 {
            let word = u64::from(high) << 32 | u64::from(low);
            sum = (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    sum
}

/// Tells apart models, quantizations of one, and layouts of pages: a hash over the file's length, its
/// beginning, samples from all of it, the norms, and `layout`.
pub(crate) fn identity(model: &Model, layout: &str) -> u64 {
    /// Samples, and bytes of each.
    const SAMPLES: (usize, usize) = (256, 64);
    let bytes = model.file().bytes();
    let mut hash = Fnv::new().extend(&(bytes.len() as u64).to_le_bytes());
    hash = hash.extend(&bytes[..bytes.len().min(ALIGNMENT)]);
    for sample in 0..SAMPLES.0 {
        let start = bytes.len() / SAMPLES.0 * sample;
        hash = hash.extend(&bytes[start..(start + SAMPLES.1).min(bytes.len())]);
    }
    hash.extend(model.weights().fingerprint().as_bytes()).extend(layout.as_bytes()).finish()
}
