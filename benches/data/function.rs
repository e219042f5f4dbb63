pub fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut index = 0;
    while index < arguments.len() {
        match arguments[index].as_str() {
            "--verbose" => {
                index += 1;
                let text = arguments.get(index);
                options.verbose = read(text, "verbose")?;
            }
            "--quiet" => {
                index += 1;
                let text = arguments.get(index);
                options.quiet = read(text, "quiet")?;
            }
            "--color" => {
                index += 1;
                let text = arguments.get(index);
                options.color = read(text, "color")?;
            }
            "--input" => {
                index += 1;
                let text = arguments.get(index);
                options.input = read(text, "input")?;
            }
            "--output" => {
                index += 1;
                let text = arguments.get(index);
                options.output = read(text, "output")?;
            }
            "--format" => {
                index += 1;
                let text = arguments.get(index);
                options.format = read(text, "format")?;
            }
            "--threads" => {
                index += 1;
                let text = arguments.get(index);
                options.threads = read(text, "threads")?;
            }
            "--limit" => {
                index += 1;
                let text = arguments.get(index);
                options.limit = read(text, "limit")?;
            }
            "--seed" => {
                index += 1;
                let text = arguments.get(index);
                options.seed = read(text, "seed")?;
            }
            "--retries" => {
                index += 1;
                let text = arguments.get(index);
                options.retries = read(text, "retries")?;
            }
            "--timeout" => {
                index += 1;
                let text = arguments.get(index);
                options.timeout = read(text, "timeout")?;
            }
            "--width" => {
                index += 1;
                let text = arguments.get(index);
                options.width = read(text, "width")?;
            }
            "--height" => {
                index += 1;
                let text = arguments.get(index);
                options.height = read(text, "height")?;
            }
            "--depth" => {
                index += 1;
                let text = arguments.get(index);
                options.depth = read(text, "depth")?;
            }
            "--margin" => {
                index += 1;
                let text = arguments.get(index);
                options.margin = read(text, "margin")?;
            }
            "--help" => {
                options.help = true;
            }
            "--" => {
                index += 1;
                break;
            }
            name if name.starts_with("--") => {
                return Err(format!("unknown option {name}"));
            }
            word => options.words.push(word.to_owned()),
        }
        index += 1;
    }
    for word in &arguments[index..] {
        options.words.push(word.clone());
    }
    if options.quiet && options.verbose {
        return Err("quiet and verbose".to_owned());
    }
    Ok(options)
}
