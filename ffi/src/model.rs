//! Models: opened once, shared by all threads.

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use runtime::{Bytes, Error, Kernel, Model, ModelFile};

use crate::boundary::{Failure, Outcome, guard};
use crate::result::{critic_result, critic_severity};
use crate::status::{critic_error, critic_status};
use crate::structs::{self, Versioned};
use crate::text::critic_text;

/// How a model's bytes are held: critic_model_options.memory.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum critic_memory {
    /// A file is mapped: nothing is copied, and processes share its pages. Bytes that are in
    /// memory already are copied.
    CRITIC_MEMORY_DEFAULT = 0,
    /// Copied into private memory, which takes as much memory as the file is long. Immune to
    /// a file that is cut short, or replaced in place, while it is in use: where that happens
    /// to a mapped file, the system ends the process with SIGBUS.
    CRITIC_MEMORY_COPY = 1,
    /// For critic_model_open_memory, and the default elsewhere: nothing is copied. The bytes stay yours; they must neither
    /// move nor change until the model and all its sessions are freed. Should begin on a
    /// multiple of CRITIC_ALIGNMENT: where they do not, they are copied after all, and
    /// critic_model_info.private_bytes tells.
    CRITIC_MEMORY_BORROW = 2,
}

/// Where borrowed bytes should begin: on a multiple of this address.
pub const CRITIC_ALIGNMENT: usize = 64;
const _: () = assert!(CRITIC_ALIGNMENT == runtime::map::ALIGNMENT);

/// Receives what the library has to say, line by line, without a line's end. The text lives
/// until it returns. It runs on the thread that makes the call, never on any other, but two
/// threads may call it at once. Without it the library says nothing anywhere.
pub type critic_log_fn =
    Option<unsafe extern "C" fn(userdata: *mut c_void, severity: critic_severity, line: critic_text)>;

/// How to open a model. Make it with critic_model_options_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_model_options {
    /// sizeof(critic_model_options).
    pub struct_size: usize,
    /// A critic_memory.
    pub memory: u32,
    /// Zero.
    pub reserved: u32,
    /// NULL: no log.
    pub log: critic_log_fn,
    /// Handed to log. Must live as long as the model.
    pub log_userdata: *mut c_void,
    /// The adapter file that makes a critic of the model, as a path like the model's own; NULL:
    /// the adapter in the model's file, if any.
    pub adapter_path: *const c_char,
    /// The bytes of such a file instead, copied or, with CRITIC_MEMORY_BORROW, yours as the
    /// model's are.
    pub adapter: critic_text,
}
// SAFETY: repr(C), size first; zeros are valid.
unsafe impl Versioned for critic_model_options {}

/// What a model is. Make it with critic_model_info_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_model_info {
    /// sizeof(critic_model_info).
    pub struct_size: usize,
    /// Length of the model file.
    pub file_bytes: u64,
    /// Private memory that its bytes take: 0 where the file is mapped or borrowed.
    pub private_bytes: u64,
    /// Tokens that the model was made for: the largest context of a session.
    pub context_tokens: u32,
    /// Different tokens that it knows.
    pub vocabulary: u32,
    /// The version of the file format.
    pub format_version: u32,
    /// 1 if the model has an adapter, else 0.
    pub has_adapter: u32,
    /// What its maker calls it. This and the texts below live as long as the model.
    pub name: critic_text,
    /// The architecture, for example "llama".
    pub family: critic_text,
    /// Licence of the weights; empty where unknown.
    pub licence: critic_text,
    /// The fastest kernel of this machine, which a session uses unless it names another:
    /// "scalar", "avx2", "avx512" or "neon". Static.
    pub kernel: critic_text,
}
// SAFETY: repr(C), size first; zeros are valid.
unsafe impl Versioned for critic_model_info {}

/// A model that is open. Immutable: any number of threads may use it at once.
pub struct critic_model {
    pub(crate) model: Arc<Model>,
    log: critic_log_fn,
    log_userdata: *mut c_void,
}
// SAFETY: the log's contract asks the host for a callback, and userdata, that any thread may use.
unsafe impl Send for critic_model {}
// SAFETY: as above; the rest is shared and immutable.
unsafe impl Sync for critic_model {}

impl critic_model {
    /// Tells the host, if it wants to know.
    pub(crate) fn log(&self, severity: critic_severity, line: &str) {
        if let Some(log) = self.log {
            // SAFETY: the host gave the function and its userdata for this.
            unsafe { log(self.log_userdata, severity, critic_text::of(line)) };
        }
    }
}

/// Opens the model file at a path.
///
/// path     Ends in NUL; on Windows it is UTF-8. A .critic file: other formats are
///          converted with the command line, `critic convert`.
/// options  NULL means the defaults.
/// out      Gets a model of your own: release it with critic_model_free.
///
/// Takes milliseconds whatever the size, because the file is mapped; the first use of its
/// weights reads them from the disk. With CRITIC_MEMORY_COPY it reads the whole file.
/// CRITIC_IO, CRITIC_CORRUPT_MODEL (also a file that is no model), CRITIC_UNSUPPORTED_MODEL
/// (also a GGUF file), CRITIC_INVALID_ARGUMENT, CRITIC_OUT_OF_MEMORY. Any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_model_open(
    path: *const c_char,
    options: *const critic_model_options,
    out: *mut *mut critic_model,
    error: *mut critic_error,
) -> critic_status {
    guard(error, || {
        if path.is_null() {
            return Err(Failure::null("path"));
        }
        // SAFETY: not NULL, so a string that ends in NUL.
        let path = unsafe { native_path(CStr::from_ptr(path))? };
        if path.as_os_str().is_empty() {
            return Err(Failure::invalid("path is empty"));
        }
        // SAFETY: pointers are NULL or the caller's, as the header asks.
        unsafe { open(options, out, |memory| parse_file(path, memory)) }
    })
}

/// Opens a model that is in memory, for example one that is linked into the program.
///
/// data     The bytes of a .critic file, len of them. Copied, unless options.memory is
///          CRITIC_MEMORY_BORROW.
///
/// All else is as with critic_model_open.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_model_open_memory(
    data: *const c_void,
    len: usize,
    options: *const critic_model_options,
    out: *mut *mut critic_model,
    error: *mut critic_error,
) -> critic_status {
    guard(error, || {
        if data.is_null() {
            return Err(Failure::null("data"));
        }
        // SAFETY: the caller promises `len` bytes that outlive the call or, where they are
        // borrowed, the model: nothing holds the slice for longer than that.
        let bytes: &'static [u8] = unsafe { critic_text { data: data.cast(), len }.bytes() }
            .ok_or_else(|| Failure::invalid("len is more than memory can hold"))?;
        // SAFETY: pointers are NULL or the caller's, as the header asks.
        unsafe {
            open(options, out, |memory| {
                let bytes = match memory {
                    critic_memory::CRITIC_MEMORY_BORROW => Bytes::from_static(bytes)?,
                    _ => Bytes::try_copy(bytes)?,
                };
                Ok(ModelFile::parse(bytes)?)
            })
        }
    })
}

/// Opens a model from a file descriptor, for hosts in a sandbox. The descriptor stays yours
/// and may be closed afterwards. The file is mapped from its beginning; with
/// CRITIC_MEMORY_COPY it is read from the descriptor's position on.
///
/// All else is as with critic_model_open. On Windows CRITIC_IO.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_model_open_fd(
    fd: i32,
    options: *const critic_model_options,
    out: *mut *mut critic_model,
    error: *mut critic_error,
) -> critic_status {
    guard(error, || {
        // SAFETY: pointers are NULL or the caller's, as the header asks.
        unsafe { open(options, out, |memory| open_fd(fd, memory)) }
    })
}

/// Describes a model into info. CRITIC_INVALID_ARGUMENT where model or info is NULL, or
/// info->struct_size is not a size. Any thread; never blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_model_describe(
    model: *const critic_model,
    info: *mut critic_model_info,
) -> critic_status {
    guard(std::ptr::null_mut(), || {
        // SAFETY: NULL or a model that the caller holds.
        let this = unsafe { model.as_ref() }.ok_or_else(|| Failure::null("model"))?;
        let (file, config, provenance) = (this.model.file(), this.model.config(), this.model.provenance());
        let described = critic_model_info {
            struct_size: 0,
            file_bytes: file.len() as u64,
            private_bytes: file.private_bytes() as u64,
            context_tokens: u32::try_from(config.context).unwrap_or(u32::MAX),
            vocabulary: u32::try_from(config.vocab_size).unwrap_or(u32::MAX),
            format_version: runtime::file::FORMAT_VERSION,
            has_adapter: this.model.adapter().is_some().into(),
            name: critic_text::of(&provenance.name),
            family: critic_text::of(&config.family),
            licence: critic_text::of(&provenance.licence),
            kernel: critic_text::of(Kernel::best().name()),
        };
        // SAFETY: NULL or the caller's struct.
        unsafe { structs::write(&described, info, "info") }
    })
}

/// The tokens of a text, as the model's own tokenizer sees them, with a
/// beginning-of-sequence token where the model asks for one: critic_result_tokens.
///
/// flags    0, or CRITIC_PARSE_CONTROL.
///
/// CRITIC_INVALID_ARGUMENT. Any thread; takes time in proportion to the text.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_tokenize(
    model: *const critic_model,
    text: critic_text,
    flags: u32,
    out: *mut *mut critic_result,
    error: *mut critic_error,
) -> critic_status {
    guard(error, || {
        // SAFETY: NULL or a model that the caller holds.
        let this = unsafe { model.as_ref() }.ok_or_else(|| Failure::null("model"))?;
        // SAFETY: the text lives until the call returns.
        let text = unsafe { crate::convert::text(text, "text")? };
        let tokens = this.model.tokenize(text, crate::convert::special(flags)?);
        // SAFETY: `out` is NULL or the caller's.
        unsafe { put(out, || critic_result { tokens, ..critic_result::default() }) }
    })
}

/// Releases a model. Sessions made from it work on; memory that it borrowed must outlive
/// them too. NULL does nothing. Any thread, once, and after all calls that were given the
/// model have returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_model_free(model: *mut critic_model) {
    _ = guard(std::ptr::null_mut(), || {
        if !model.is_null() {
            // SAFETY: made by `put`, and given back once.
            drop(unsafe { Box::from_raw(model) });
        }
        Ok(())
    });
}

/// Boxes what `make` makes into `out`.
///
/// # Safety
/// `out` is NULL or points to a place for a pointer.
pub(crate) unsafe fn put<T>(out: *mut *mut T, make: impl FnOnce() -> T) -> Outcome {
    if out.is_null() {
        return Err(Failure::null("out"));
    }
    let boxed = Box::into_raw(Box::new(make()));
    // SAFETY: not NULL, so the caller's.
    unsafe { out.write_unaligned(boxed) };
    Ok(())
}

/// # Safety
/// Pointers are NULL or as the header asks.
unsafe fn open(
    options: *const critic_model_options,
    out: *mut *mut critic_model,
    parse: impl FnOnce(critic_memory) -> Outcome<ModelFile>,
) -> Outcome {
    if out.is_null() {
        return Err(Failure::null("out"));
    }
    // SAFETY: as the caller promises.
    let options = unsafe { structs::read(options, "options")? };
    let (log, log_userdata) = options.map_or((None, std::ptr::null_mut()), |o| (o.log, o.log_userdata));
    let memory = match options.map_or(0, |options| options.memory) {
        0 => critic_memory::CRITIC_MEMORY_DEFAULT,
        1 => critic_memory::CRITIC_MEMORY_COPY,
        2 => critic_memory::CRITIC_MEMORY_BORROW,
        other => return Err(Failure::invalid(format!("memory is {other}, which is no critic_memory"))),
    };
    // SAFETY: as the caller promises.
    let adapter = options.map(|options| unsafe { adapter_file(&options, memory) }).transpose()?.flatten();
    let model = Model::from_files(parse(memory)?, adapter.as_ref())?;
    let model = critic_model { model, log, log_userdata };
    let file = model.model.file();
    let held = if file.private_bytes() == 0 { "in place" } else { "copied" };
    model.log(
        critic_severity::CRITIC_NOTE,
        &format!(
            "opened {} ({}), {} bytes, {held}",
            model.model.provenance().name,
            model.model.config().family,
            file.len()
        ),
    );
    // SAFETY: as the caller promises.
    unsafe { put(out, || model) }
}

/// The adapter that the options name, if they do.
///
/// # Safety
/// Pointers are NULL or as the header asks.
unsafe fn adapter_file(options: &critic_model_options, memory: critic_memory) -> Outcome<Option<ModelFile>> {
    let borrow = memory == critic_memory::CRITIC_MEMORY_BORROW;
    // SAFETY: as with the bytes of a model, which live until the call returns or, where they are
    // borrowed, as long as the model.
    let bytes: &'static [u8] = unsafe { options.adapter.bytes() }
        .ok_or_else(|| Failure::invalid("adapter: NULL with a length, or more than memory can hold"))?;
    if options.adapter_path.is_null() {
        return match bytes {
            [] => Ok(None),
            bytes if borrow => Ok(Some(ModelFile::parse(Bytes::from_static(bytes)?)?)),
            bytes => Ok(Some(ModelFile::parse(Bytes::try_copy(bytes)?)?)),
        };
    }
    if !bytes.is_empty() {
        return Err(Failure::invalid("adapter and adapter_path are both set"));
    }
    // SAFETY: not NULL, so a string that ends in NUL.
    unsafe { parse_file(native_path(CStr::from_ptr(options.adapter_path))?, memory) }.map(Some)
}

/// Maps the file, or reads it where a copy is wanted.
fn parse_file(path: &Path, memory: critic_memory) -> Outcome<ModelFile> {
    match memory {
        critic_memory::CRITIC_MEMORY_COPY => ModelFile::parse(Bytes::read(path)?).map_err(|error| {
            let failure = Failure::from(error);
            Failure { message: format!("{}: {}", path.display(), failure.message), ..failure }
        }),
        _ => Ok(ModelFile::open(path)?),
    }
}

#[cfg(unix)]
fn open_fd(fd: i32, memory: critic_memory) -> Outcome<ModelFile> {
    use std::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;
    let io = |source| Error::Io { path: format!("file descriptor {fd}").into(), source };
    if fd < 0 {
        return Err(Failure::invalid(format!("fd is {fd}")));
    }
    // SAFETY: the caller lends the descriptor, which is not closed here.
    let file = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(fd) });
    let bytes = match memory {
        critic_memory::CRITIC_MEMORY_COPY => Bytes::read_file(&file)?,
        _ => Bytes::map_file(&file),
    };
    Ok(ModelFile::parse(bytes.map_err(io)?)?)
}

#[cfg(not(unix))]
fn open_fd(_: i32, _: critic_memory) -> Outcome<ModelFile> {
    Err(Failure::new(critic_status::CRITIC_IO, "file descriptors are not supported on this system"))
}

/// The path as the system wants it.
#[cfg(unix)]
fn native_path(path: &CStr) -> Outcome<&Path> {
    use std::os::unix::ffi::OsStrExt;
    Ok(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())))
}

#[cfg(not(unix))]
fn native_path(path: &CStr) -> Outcome<&Path> {
    path.to_str().map(Path::new).map_err(|_| Failure::invalid("path is not UTF-8"))
}
