//! Programs in C, C++ and Python against the installed library.
//!
//! The first test that needs it installs libcritic with CMake, as a user would, below the build
//! folder. Programs are those of `examples/`, and of `c/` beside this file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use critic_import::{ConvertOptions, Quant, convert};
use critic_tests::adapters::RandomAdapter;
use critic_tests::{data, smollm2_path};

const PROMPT: &str = "What is 48 + 24?";
const RESPONSE: &str = "48 + 24 = 74";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

/// Where the library is installed, and what is built against it lies.
fn work() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-abi")
}

/// Cargo's build folder.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a build folder").to_owned()
}

/// A program that may be missing; `package` is what Debian calls it.
fn tool(name: &str, package: &str) -> Command {
    let found = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(found, "{name} is missing: apt-get install {package}");
    Command::new(name)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Installs the library, once.
fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let (build, prefix) = (work().join("build"), work().join("prefix"));
        let cargo = format!("-DCRITIC_CARGO_TARGET_DIR={}", target().display());
        run(tool("cmake", "cmake").arg("-S").arg(root()).arg("-B").arg(&build).arg(cargo));
        run(Command::new("cmake").arg("--build").arg(&build));
        let _ = fs::remove_dir_all(&prefix);
        run(Command::new("cmake").arg("--install").arg(&build).arg("--prefix").arg(&prefix));
        prefix
    })
}

fn lib() -> PathBuf {
    let lib = ["lib", "lib64"].iter().map(|name| prefix().join(name)).find(|lib| lib.exists());
    let multiarch = || fs::read_dir(prefix().join("lib")).expect("lib").map(|entry| entry.expect("entry").path());
    let lib = lib.expect("CMake installs to lib or lib64");
    if lib.join("libcritic.a").exists() {
        return lib;
    }
    multiarch().find(|path| path.join("libcritic.a").exists()).expect("the library is installed")
}

/// pkg-config's flags.
fn flags() -> Vec<String> {
    let mut pkg_config = tool("pkg-config", "pkg-config");
    let output = run(pkg_config.args(["--cflags", "--libs", "critic"]).env("PKG_CONFIG_PATH", lib().join("pkgconfig")));
    text(&output).split_whitespace().map(str::to_owned).collect()
}

/// Builds a test program of `c/`, whose file's ending is the language.
fn program(file: &str) -> PathBuf {
    let (compiler, standard) = if file.ends_with(".cpp") { ("g++", "c++17") } else { ("gcc", "gnu11") };
    let out = work().join(file).with_extension("");
    let flags = flags();
    run(tool(compiler, compiler)
        .arg(format!("-std={standard}"))
        .args(["-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&out)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(file))
        .args(flags)
        .arg(format!("-Wl,-rpath,{}", lib().display())));
    out
}

/// Builds the examples as their CMakeLists.txt says, once.
fn examples() -> &'static Path {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let build = work().join("examples");
        let _ = fs::remove_dir_all(&build);
        let installed = format!("-DCMAKE_PREFIX_PATH={}", prefix().display());
        run(tool("cmake", "cmake").arg("-S").arg(root().join("examples")).arg("-B").arg(&build).arg(installed));
        run(Command::new("cmake").arg("--build").arg(&build).env("CFLAGS", "-Werror").env("CXXFLAGS", "-Werror"));
        build
    })
}

/// Any error, and any lost block, fails.
fn valgrind() -> Command {
    let mut command = tool("valgrind", "valgrind");
    command.args(["--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect,possible"]);
    command.args(["--show-leak-kinds=definite,indirect,possible", "--error-exitcode=99", "--num-callers=30"]);
    command
}

/// A small random model in a file: fast enough for many rounds under valgrind.
fn small_model() -> PathBuf {
    static SMALL: OnceLock<PathBuf> = OnceLock::new();
    let path = SMALL.get_or_init(|| {
        fs::create_dir_all(work()).expect("a folder");
        let path = work().join("small.critic");
        let options = ConvertOptions { quant: Quant::Keep, ..Default::default() };
        let source = data().join("hf/llama-gqa-tied");
        convert(&source, &path, &options, &mut |_, _| std::ops::ControlFlow::Continue(())).expect("converts");
        path
    });
    path.clone()
}

#[test]
fn headers_compile_alone_without_a_warning() {
    let check = |compiler: &str, package: &str, language: &str, standard: &str, header: &str, more: &[&str]| {
        let mut command = tool(compiler, package);
        command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x", language]);
        run(command.arg(format!("-std={standard}")).args(more).arg(root().join("include").join(header)));
    };
    for (compiler, package) in [("gcc", "gcc"), ("clang", "clang")] {
        for standard in ["c99", "c11", "c17"] {
            check(compiler, package, "c", standard, "critic.h", &[]);
        }
    }
    for (compiler, package) in [("g++", "g++"), ("clang++", "clang")] {
        // gcc takes the pragma-free header for a main file and says so about nothing else.
        for standard in ["c++11", "c++17", "c++20"] {
            check(compiler, package, "c++", standard, "critic.h", &[]);
        }
        for standard in ["c++17", "c++20"] {
            check(compiler, package, "c++", standard, "critic.hpp", &[]);
            check(compiler, package, "c++", standard, "critic.hpp", &["-fno-exceptions"]);
            check(compiler, package, "c++", standard, "critic.hpp", &["-DCRITIC_NO_EXCEPTIONS"]);
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn library_is_small_and_exports_only_its_own() {
    let library = lib().join("libcritic.so");
    let size = fs::metadata(&library).expect("the library").len();
    println!("{size} bytes");
    assert!(size <= 4 << 20, "{size} bytes");
    let symbols = text(&run(tool("nm", "binutils").args(["-D", "--defined-only"]).arg(&library)));
    let header = fs::read_to_string(prefix().join("include/critic.h")).expect("the installed header");
    let names: Vec<&str> = symbols.lines().map(|line| line.split_whitespace().last().expect("a name")).collect();
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("critic_")), "{names:?}");
    let declared = header.lines().filter(|line| line.starts_with("CRITIC_API ")).count();
    assert_eq!(names.len(), declared, "what is exported is what is declared");
    let dynamic = text(&run(tool("readelf", "binutils").arg("-d").arg(&library)));
    assert!(dynamic.contains("soname: [libcritic.so.0]"), "{dynamic}");
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        // The loader is a part of the C library.
        let known = ["[libc.so.", "[libm.so.", "[libgcc_s.so.", "[ld-linux"];
        assert!(known.iter().any(|name| line.contains(name)), "{line}");
    }
}

#[test]
fn examples_run() {
    let model = smollm2_path();
    for name in ["critique", "critique_static"] {
        let said = text(&run(Command::new(examples().join(name)).arg(&model).args([PROMPT, RESPONSE, "40"])));
        assert!(said.starts_with("--- critique\n") && said.contains("\n---"), "{said}");
    }
    let said = text(&run(Command::new(examples().join("host_actor")).arg(&model)));
    assert!(said.contains("[user] What is 48 + 24?") && said.contains("--- accepted\n48 + 24 = 72"), "{said}");
    assert!(said.ends_with("✓\n"), "{said}");
    let draft = work().join("draft.txt");
    fs::write(&draft, RESPONSE).expect("a draft");
    let watch = |path: &Path| {
        run(Command::new(examples().join("watch")).arg(&model).arg(path).args([PROMPT, "--once", "--max-tokens", "20"]))
    };
    let said = text(&watch(&draft));
    assert!(said.contains("draft.txt, 12 bytes") && said.contains("tokens were known already"), "{said}");
}

/// What is typed on a pipe: critiques of text that is out of date are cancelled, the last one counts.
#[test]
fn typing_cancels_what_is_out_of_date() {
    let mut live = Command::new(examples().join("live"));
    live.arg(smollm2_path()).args([PROMPT, "--max-tokens", "40"]);
    let mut process = live.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let typed = "48 + 24 = 74, and the the sum is odd.".to_owned() + "\u{7f}!\n";
    std::io::Write::write_all(&mut process.stdin.take().expect("a pipe"), typed.as_bytes()).expect("typed");
    let output = process.wait_with_output().expect("ended");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && said.starts_with("48 + 24 = 74, and the the sum is odd!\n"), "{said}");
    assert!(said.ends_with(" cancelled\n"), "{said}");
}

/// The watcher gives up a critique when the file changes under it, and critiques the new text.
#[test]
fn watching_cancels_what_is_out_of_date() {
    let draft = work().join("draft-watch.txt");
    let watch = examples().join("watch");
    // Long enough that its critique is far from done when the change comes.
    fs::write(&draft, "48 + 24 = 74. ".repeat(400)).expect("a draft");
    let mut process = Command::new(watch)
        .arg(smollm2_path())
        .arg(&draft)
        .args([PROMPT, "--max-tokens", "2000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut said = BufReader::new(process.stdout.take().expect("a pipe")).lines().map(|line| line.expect("text"));
    assert_eq!(said.next().as_deref(), Some("--- draft-watch.txt, 5600 bytes"));
    fs::write(&draft, RESPONSE).expect("a change");
    let cancelled = said.find(|line| line.starts_with("--- "));
    let restarted = said.find(|line| line.starts_with("--- "));
    process.kill().expect("ours");
    process.wait().expect("ended");
    assert_eq!(cancelled.as_deref(), Some("--- changed: starting over"));
    assert_eq!(restarted.as_deref(), Some("--- draft-watch.txt, 12 bytes"));
}

#[test]
fn examples_run_under_valgrind() {
    let model = smollm2_path();
    let draft = work().join("draft-valgrind.txt");
    let examples = examples();
    fs::write(&draft, RESPONSE).expect("a draft");
    // Valgrind knows no AVX-512; where it has no AVX2 either, the scalar kernel would do.
    let kernel = if runtime::Kernel::named("avx2").is_ok() { "avx2" } else { "scalar" };
    // A few tokens take minutes: all at once, for those who have the cores.
    let mut critique = valgrind();
    critique.arg(examples.join("critique")).arg(&model).args([PROMPT, RESPONSE, "2", kernel]);
    let mut actor = valgrind();
    actor.arg(examples.join("host_actor")).arg(&model).args(["2", kernel]);
    let mut watch = valgrind();
    watch.arg(examples.join("watch")).arg(&model).arg(&draft).arg(PROMPT);
    watch.args(["--once", "--max-tokens", "2", "--kernel", kernel]);
    std::thread::scope(|scope| {
        for mut command in [critique, actor, watch] {
            scope.spawn(move || run(&mut command));
        }
    });
}

#[test]
fn text_is_that_of_the_command_line() {
    let model = smollm2_path();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "critic-cli", "--target-dir"]).arg(target());
    run(build.current_dir(root()));
    let sampling = ["--seed", "11", "--temperature", "0.9", "--max-tokens", "40", "--json"];
    let mut cli = Command::new(target().join("debug/critic"));
    cli.arg("improve").arg("--model").arg(&model).args(["--prompt", PROMPT, "--response", RESPONSE]).args(sampling);
    let answer: serde_json::Value = serde_json::from_slice(&run(&mut cli).stdout).expect("JSON");
    let said = text(&run(Command::new(program("improve.c")).arg(&model).args([PROMPT, RESPONSE, "11"])));
    let part = |text: &serde_json::Value| {
        let text = text.as_str().unwrap_or_default();
        format!("{}\n{text}", text.len())
    };
    let accepted = u8::from(answer["accepted"] == true);
    assert_eq!(said, format!("{}{}{accepted}\n", part(&answer["critique"]), part(&answer["refinement"])));
    assert!(answer["critique"].as_str().is_some_and(|text| text.len() > 20), "{answer}");
}

#[test]
fn cancellation_is_prompt_and_harmless() {
    print!("{}", text(&run(Command::new(program("cancel.c")).arg(smollm2_path()))));
}

#[test]
fn threads_and_random_cancels() {
    print!("{}", text(&run(Command::new(program("threads.c")).arg(smollm2_path()).arg("6"))));
    print!("{}", text(&run(valgrind().arg(program("threads.c")).arg(small_model()).arg("8"))));
}

#[test]
fn abuse_gets_the_documented_status() {
    let (program, model) = (program("abuse.c"), small_model());
    let other = root().join("Cargo.toml");
    let adapter = work().join("adapter.critic");
    let config = critic_tests::open(&model).config().clone();
    fs::write(&adapter, RandomAdapter::gate(&config)).expect("an adapter file");
    for mut command in [Command::new(&program), {
        let mut v = valgrind();
        v.arg(&program);
        v
    }] {
        let output = run(command.arg(&model).arg(&other).arg(&adapter));
        assert!(output.stderr.is_empty(), "the library said: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn process_survives() {
    let (program, library, model) = (program("process.c"), lib().join("libcritic.so"), smollm2_path());
    // One that may be cut short.
    let copy = work().join("truncated.critic");
    fs::copy(small_model(), &copy).expect("a copy");
    for (what, model) in
        [("memory", &model), ("truncated", &copy), ("fork", &model), ("dlopen", &model), ("remains", &model)]
    {
        let output = run(Command::new(&program).arg(what).arg(model).arg(&library));
        assert!(output.stderr.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn wrapper_throws_or_returns() {
    run(valgrind().arg(program("wrapper.cpp")).arg(small_model()));
    run(valgrind().arg(program("expected.cpp")).arg(small_model()));
}

#[test]
fn programs_of_the_guide_compile() {
    let guide = fs::read_to_string(root().join("docs/embedding.md")).expect("the guide");
    for (language, compiler, standard) in [("c", "gcc", "c99"), ("cpp", "g++", "c++17")] {
        let code = guide.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
        let file = work().join(format!("guide.{language}"));
        fs::create_dir_all(work()).expect("a folder");
        fs::write(&file, code.expect("a program")).expect("a program");
        let mut command = tool(compiler, compiler);
        command.args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"]).arg(root().join("include"));
        run(command.arg(format!("-std={standard}")).arg(&file));
    }
}

#[test]
fn cmake_builds_it_inside_another_project() {
    let subdirectory = format!("add_subdirectory({} critic)", root().display());
    let fetched = format!(
        "include(FetchContent)\nFetchContent_Declare(critic SOURCE_DIR {})\nFetchContent_MakeAvailable(critic)",
        root().display()
    );
    for (name, how) in [("inside", subdirectory), ("fetched", fetched)] {
        build_inside(name, &how);
    }
}

/// A project that has critic built as a part of its own build.
fn build_inside(name: &str, how: &str) {
    let (source, build) = (work().join(name), work().join(format!("{name}-build")));
    fs::create_dir_all(&source).expect("a folder");
    let lists = format!(
        "cmake_minimum_required(VERSION 3.18)\nproject(inside C)\nset(CRITIC_CARGO_TARGET_DIR {})\n\
         {how}\nadd_executable(inside main.c)\ntarget_link_libraries(inside critic::critic)\n",
        target().display()
    );
    fs::write(source.join("CMakeLists.txt"), lists).expect("a project");
    fs::write(
        source.join("main.c"),
        "#include <critic.h>\nint main(void) { return critic_version_number() ? 0 : 1; }\n",
    )
    .expect("a program");
    prefix();
    run(tool("cmake", "cmake").arg("-S").arg(&source).arg("-B").arg(&build));
    run(Command::new("cmake").arg("--build").arg(&build));
    run(&mut Command::new(build.join("inside")));
}

#[test]
fn python_binds_it_by_the_header() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smoke.py");
    let mut python = tool("python3", "python3");
    python.arg(script).arg(prefix().join("include/critic.h")).arg(lib().join("libcritic.so")).arg(smollm2_path());
    print!("{}", text(&run(&mut python)));
}
