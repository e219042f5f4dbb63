//! Prefixes on disk: the next session pays for the difference alone, and says the same; what is wrong
//! with a file costs time and nothing else.

use std::fs;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use critic::{GenerateOptions, Model, Precision, PrefixCache, Session, SessionOptions};
use critic_import::Quant;
use critic_tests::small_with_context;
use proptest::prelude::*;

fn small(name: &str, quant: Quant) -> Arc<Model> {
    small_with_context(name, quant, 512)
}

fn session(model: &Arc<Model>, cache: Option<&PrefixCache>) -> Session {
    let mut session = Session::new(model, &SessionOptions { threads: 1, ..Default::default() }).expect("a session");
    session.set_prefix_cache(cache.cloned());
    session
}

fn prompt(model: &Model, tokens: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size as u32;
    (0..tokens as u32).map(|at| (at * 7 + at / 11) % vocab).collect()
}

/// What follows the prompt, and how much of that was there.
fn continuation(session: &mut Session, prompt: &[u32]) -> (Vec<u32>, Option<u64>, usize) {
    session.take_timings();
    let options = GenerateOptions { max_tokens: 8, logprob: true, ..Default::default() };
    let written = session.generate(prompt, &options, &mut |_| Continue(())).expect("text");
    (written.tokens, written.logprob.map(f64::to_bits), session.take_timings().reused_tokens)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map_or(Vec::new(), |all| all.map(|entry| entry.expect("an entry").path()).collect())
}

#[test]
fn the_next_session_begins_where_the_last_one_was() {
    let model = small("llama-gqa-tied", Quant::Q4);
    let folder = tempfile::tempdir().expect("a folder");
    let cache = PrefixCache::new(folder.path().join("made/when/needed"));
    let text = prompt(&model, 400);
    let plain = continuation(&mut session(&model, None), &text);
    let first = continuation(&mut session(&model, Some(&cache)), &text);
    assert_eq!((&first.0, first.1, first.2), (&plain.0, plain.1, 0));
    assert_eq!(files(&cache.folder).len(), 1);
    let mut mapped = session(&model, Some(&cache));
    let second = continuation(&mut mapped, &text);
    // Whole pages of 64.
    assert_eq!((&second.0, second.1, second.2), (&plain.0, plain.1, 384));
    // Another end, from the middle of a mapped page on: it is copied, and what is mapped stays as it is.
    let mut edited = text.clone();
    edited[350] = (edited[350] + 1) % 50;
    let plain_edited = continuation(&mut session(&model, None), &edited);
    let third = continuation(&mut mapped, &edited);
    assert_eq!((&third.0, third.1, third.2), (&plain_edited.0, plain_edited.1, 350));
    let again = continuation(&mut session(&model, Some(&cache)), &text);
    assert_eq!((&again.0, again.1, again.2), (&plain.0, plain.1, 384));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&cache.folder), mode(&files(&cache.folder)[0])), (0o700, 0o600));
    }
}

#[test]
fn short_prompts_other_models_and_other_formats_find_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = PrefixCache::new(folder.path());
    let model = small("llama-gqa-tied", Quant::Q4);
    continuation(&mut session(&model, Some(&cache)), &prompt(&model, 200));
    assert!(files(folder.path()).is_empty(), "evaluating 200 tokens anew is as quick");
    let text = prompt(&model, 300);
    continuation(&mut session(&model, Some(&cache)), &text);
    assert_eq!(files(folder.path()).len(), 1);
    for other in [small("llama-gqa-tied", Quant::Q8), small("qwen3-qknorm", Quant::Q4)] {
        let reused = continuation(&mut session(&other, Some(&cache)), &prompt(&other, 300)).2;
        assert_eq!(reused, 0, "its keys and values are others");
    }
    let options = SessionOptions { threads: 1, precision: Precision::Fine, ..Default::default() };
    let mut fine = Session::new(&model, &options).expect("a session");
    fine.set_prefix_cache(Some(cache.clone()));
    assert_eq!(continuation(&mut fine, &text).2, 0, "keys and values of other arithmetic");
}

#[test]
fn the_least_used_make_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = small("llama-gqa-tied", Quant::Q4);
    let whole = PrefixCache::new(folder.path());
    let text = |first: u32| {
        let mut text = prompt(&model, 300);
        text[0] = first;
        text
    };
    continuation(&mut session(&model, Some(&whole)), &text(1));
    let bytes = fs::metadata(&files(folder.path())[0]).expect("it is there").len();
    let cache = PrefixCache { limit: 2 * bytes + bytes / 2, ..whole };
    let tick = || std::thread::sleep(std::time::Duration::from_millis(20));
    tick();
    continuation(&mut session(&model, Some(&cache)), &text(2));
    tick();
    // Used again, so that the second is the oldest.
    assert_eq!(continuation(&mut session(&model, Some(&cache)), &text(1)).2, 256);
    tick();
    continuation(&mut session(&model, Some(&cache)), &text(3));
    assert_eq!(files(folder.path()).len(), 2);
    let reused = [1, 3, 2].map(|first| continuation(&mut session(&model, Some(&cache)), &text(first)).2);
    assert_eq!(reused, [256, 256, 0]);
}

#[test]
fn a_folder_that_cannot_be_is_no_error() {
    let model = small("llama-gqa-tied", Quant::Q4);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let cache = PrefixCache::new(file.path().join("below a file"));
    let text = prompt(&model, 300);
    let plain = continuation(&mut session(&model, None), &text);
    assert_eq!(continuation(&mut session(&model, Some(&cache)), &text), plain);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A file that is cut, or of which any byte is another one, is passed over: the text is the same.
    #[test]
    fn damaged_files_cost_time_alone(
        at in any::<prop::sample::Index>(),
        in_header in any::<bool>(),
        change in 1u8..,
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| small("llama-gqa-tied", Quant::Q4));
        let model = &*MODEL;
        let folder = tempfile::tempdir().expect("a folder");
        let cache = PrefixCache::new(folder.path());
        let text = prompt(model, 300);
        let plain = continuation(&mut session(model, Some(&cache)), &text);
        let path = files(folder.path()).remove(0);
        let mut bytes = fs::read(&path).expect("it is there");
        // Zeros fill up what is behind the header and the token ids, and nobody looks at them.
        let (header, pages) = (40 + 4 * 256, 4096);
        let at = at.index(if in_header { header } else { header + bytes.len() - pages });
        match cut {
            Some(cut) => bytes.truncate(cut.index(bytes.len())),
            None if at < header => bytes[at] ^= change,
            None => bytes[pages + at - header] ^= change,
        }
        fs::write(&path, bytes).expect("it may be written");
        let (tokens, logprob, reused) = continuation(&mut session(model, Some(&cache)), &text);
        prop_assert_eq!((tokens, logprob), (plain.0, plain.1));
        prop_assert_eq!(reused, 0);
        // And written anew.
        prop_assert_eq!(continuation(&mut session(model, Some(&cache)), &text).2, 256);
    }
}
