//! `critic lsp`: the language server on standard input and output.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use crate::args::LspArgs;
use crate::failure::Failure;

pub fn run(args: &LspArgs) -> Result<(), Failure> {
    let log = match &args.log {
        None => None,
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Some(Box::new(file.map_err(|error| Failure::file(path, error))?) as Box<dyn Write + Send>)
        }
    };
    let from_command_line = args.model.clone();
    let open = move |model: Option<&str>| {
        let mut args = from_command_line.clone();
        if let Some(model) = model {
            args.model = Some(PathBuf::from(model));
        }
        args.open().map_err(|failure| match failure {
            Failure::Usage(why) | Failure::Failed(why) => why,
            Failure::Interrupted | Failure::ClosedPipe | Failure::Findings => "interrupted".to_owned(),
        })
    };
    let code = critic_lsp::serve(std::io::stdin(), std::io::stdout(), log, Box::new(open));
    if code == 0 { Ok(()) } else { Err(Failure::Failed("the client left without saying goodbye".to_owned())) }
}
