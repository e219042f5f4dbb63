//! `critic logits`: for checking this program against other implementations.

use std::io::{BufWriter, Write};
use std::path::Path;

use critic::Precision;
use critic::transformer::Logits;
use safetensors::tensor::{Dtype, TensorView};

use crate::args::LogitsArgs;
use crate::failure::Failure;
use crate::output::{Stream, To};
use crate::text::read_file;

pub fn run(args: &LogitsArgs) -> Result<(), Failure> {
    let text = read_file(&args.tokens_file)?;
    let tokens: Vec<u32> = serde_json::from_str(&text)
        .map_err(|error| Failure::file(&args.tokens_file, format!("not a JSON array of token ids: {error}")))?;
    let model = args.model.open()?;
    let vocab = model.config().vocab_size;
    if let Some(at) = tokens.iter().position(|&token| token as usize >= vocab) {
        let why = format!("token {} at index {at} is outside the vocabulary of {vocab}", tokens[at]);
        return Err(Failure::file(&args.tokens_file, why));
    }
    let precision = if args.fast || args.model.fine { Precision::Fast } else { Precision::Exact };
    let mut session = args.model.session(&model, precision)?;
    let mut bytes = Vec::new();
    let mut stream = Stream::new(true);
    let result = session.prefill(&tokens, Logits::All, &mut |p| stream.show(p, To::Stderr), &mut |_, logits| {
        bytes.extend(logits.iter().flat_map(|value| value.to_le_bytes()));
    });
    stream.finish(result)?;
    let view = TensorView::new(Dtype::F32, vec![tokens.len(), vocab], &bytes)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let file = safetensors::serialize([("logits", view)], None).map_err(|error| Failure::Failed(error.to_string()))?;
    write_whole(&args.output, &file)
}

/// The file appears whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::file(path, error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".critic-");
    #[cfg(unix)]
    {
        // As any other new file: the umask decides.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(folder).map_err(failed)?;
    let mut writer = BufWriter::new(file.as_file());
    writer.write_all(bytes).and_then(|()| writer.flush()).map_err(failed)?;
    drop(writer);
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
