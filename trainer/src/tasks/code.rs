//! Programming: small Python functions, checked by unit tests in the sandbox.

use super::{Part, Problem, Template, fill};
use crate::error::Result;
use crate::random::Random;
use crate::sandbox::{Ended, Sandbox};

/// The share of `tests` that the program in `answer` passes.
pub fn score(sandbox: &Sandbox, answer: &str, tests: &[String]) -> Result<f64> {
    if tests.is_empty() {
        return Ok(0.0);
    }
    // What marks a test that passed is not known to the program before it is run.
    let mark = format!("passed-{:016x}", mark());
    let literal = |text: &str| serde_json::to_string(text).expect("a string is JSON");
    let tests: Vec<String> = tests.iter().map(|test| literal(test)).collect();
    let source = format!(
        "import json\n_names = {{'__name__': 'answer'}}\nexec(compile(json.loads({}), 'answer', 'exec'), _names)\n\
         for _test in json.loads({}):\n    try:\n        exec(_test, dict(_names))\n        print({}, flush=True)\n    \
         except Exception:\n        pass\n",
        literal(&literal(&program(answer))),
        literal(&format!("[{}]", tests.join(","))),
        literal(&mark),
    );
    let outcome = sandbox.run_python(&source)?;
    let passed = outcome.stdout.lines().filter(|line| *line == mark).count();
    Ok(if outcome.ended == Ended::Exit(0) { passed as f64 / tests.len() as f64 } else { 0.0 })
}

/// Changes with every run.
fn mark() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// The program in an answer: its first fenced block, or all of it.
pub fn program(answer: &str) -> String {
    let mut lines = answer.lines().skip_while(|line| !line.trim_start().starts_with("```"));
    if lines.next().is_none() {
        return answer.to_owned();
    }
    let block: Vec<&str> = lines.take_while(|line| !line.trim_start().starts_with("```")).collect();
    block.join("\n") + "\n"
}

/// Name of the function, what it does, and its tests.
fn problem(name: &str, arguments: &str, does: &str, tests: Vec<String>) -> Problem {
    Problem {
        prompt: format!("Write a Python function `{name}({arguments})` that {does} Give only the code."),
        tests,
        ..Problem::default()
    }
}

fn list(random: &mut Random, count: usize, below: usize) -> Vec<i64> {
    (0..count).map(|_| random.below(below) as i64 - below as i64 / 4).collect()
}

fn word(random: &mut Random, length: usize) -> String {
    (0..length).map(|_| *random.pick(&['a', 'b', 'c', 'd', 'e', 'i', 'o', 'r', 's', 't'])).collect()
}

/// From easy to hard; the last of each kind are held out.
const TEMPLATES: &[Template] = &[
    |random, size| {
        let k = 2 + random.below(8) as i64;
        let tests = (0..4).map(|_| {
            let values = list(random, 2 + size, 40);
            let sum: i64 = values.iter().filter(|v| **v % k == 0).sum();
            format!("assert sum_multiples({values:?}) == {sum}")
        });
        problem(
            "sum_multiples",
            "numbers",
            &format!("returns the sum of the numbers in a list that are divisible by {k}."),
            tests.collect(),
        )
    },
    |random, size| {
        let n = 1 + random.below(1 + size);
        let tests = (0..4).map(|_| {
            let text = word(random, n + size);
            let turned: String = text[n % text.len()..].chars().chain(text[..n % text.len()].chars()).collect();
            format!("assert rotate({text:?}) == {turned:?}")
        });
        problem(
            "rotate",
            "text",
            &format!("moves the first {n} characters of a text, which is longer, to its end."),
            tests.collect(),
        )
    },
    |random, size| {
        let limit = random.below(10) as i64;
        let tests = (0..4).map(|_| {
            let values = list(random, 3 + size, 30);
            let count = values.iter().filter(|v| **v > limit).count();
            format!("assert count_above({values:?}) == {count}")
        });
        problem(
            "count_above",
            "numbers",
            &format!("returns how many numbers of a list are greater than {limit}."),
            tests.collect(),
        )
    },
    |random, size| {
        let letter = *random.pick(&['a', 'b', 'e', 's', 't']);
        let tests = (0..4).map(|_| {
            let text = word(random, 4 + 2 * size);
            let found = text.rfind(letter).map_or(-1, |at| at as i64);
            format!("assert last_place({text:?}) == {found}")
        });
        problem(
            "last_place",
            "text",
            &format!("returns the index of the last \"{letter}\" in a text, or -1 where there is none."),
            tests.collect(),
        )
    },
    |random, size| {
        let k = 2 + random.below(2 + size);
        let tests = (0..4).map(|_| {
            let length = k + random.below(3 + size);
            let values = list(random, length, 20);
            let chunks: Vec<&[i64]> = values.chunks(k).collect();
            format!("assert chunks({values:?}) == {chunks:?}")
        });
        problem(
            "chunks",
            "items",
            &format!("cuts a list into lists of {k} items; the last one may be shorter."),
            tests.collect(),
        )
    },
    |random, size| {
        let tests = (0..4).map(|_| {
            let text = word(random, 3 + 2 * size);
            let mut out = String::new();
            let bytes: Vec<char> = text.chars().collect();
            for run in bytes.chunk_by(|a, b| a == b) {
                out.push(run[0]);
                out += &run.len().to_string();
            }
            format!("assert run_lengths({text:?}) == {out:?}")
        });
        problem(
            "run_lengths",
            "text",
            "writes each run of equal letters as the letter and its length, so that \"aab\" becomes \"a2b1\".",
            tests.collect(),
        )
    },
    |random, size| {
        let rank = 2 + random.below(1 + size);
        let tests = (0..4).map(|_| {
            let mut values = list(random, rank + 2 + size, 50);
            let shown = values.clone();
            values.sort_unstable_by(|a, b| b.cmp(a));
            values.dedup();
            let found = values.get(rank - 1).map_or("None".to_owned(), i64::to_string);
            format!("assert ranked({shown:?}) == {found}")
        });
        problem(
            "ranked",
            "numbers",
            &format!(
                "returns the number that comes {rank}. among the different numbers of a list, the largest first, or None where there are fewer."
            ),
            tests.collect(),
        )
    },
    // For validation.
    |random, size| {
        let base = 2 + random.below(7) as u64;
        let tests = (0..4).map(|_| {
            let n = random.below(10usize.pow(1 + size.min(5) as u32)) as u64;
            let (mut left, mut digits) = (n, Vec::new());
            while left > 0 || digits.is_empty() {
                digits.push((b'0' + (left % base) as u8) as char);
                left /= base;
            }
            let text: String = digits.iter().rev().collect();
            format!("assert in_base({n}) == {text:?}")
        });
        problem(
            "in_base",
            "n",
            &format!("returns a number that is not negative as a text in base {base}."),
            tests.collect(),
        )
    },
    // For the test.
    |random, size| {
        let tests = (0..4).map(|_| {
            let values = list(random, 3 + size, 30);
            let (mut best, mut here) = (values[0], 0);
            for &v in &values {
                here = (here + v).max(v);
                best = best.max(here);
            }
            format!("assert best_run({values:?}) == {best}")
        });
        problem(
            "best_run",
            "numbers",
            "returns the largest sum of neighbouring numbers in a list that is not empty; at least one number is taken.",
            tests.collect(),
        )
    },
    |random, size| {
        let pairs = ["()", "[]", "{}"];
        let tests = (0..6).map(|_| {
            let mut text = String::new();
            for _ in 0..1 + random.below(2 + size) {
                let pair = random.pick(&pairs);
                let at = random.below(text.len() + 1);
                text.insert_str(at, pair);
            }
            if random.below(2) == 0 {
                text.remove(random.below(text.len()));
            }
            let mut stack = Vec::new();
            let mut right = true;
            for c in text.chars() {
                match c {
                    '(' | '[' | '{' => stack.push(c),
                    _ => right &= matches!((stack.pop(), c), (Some('('), ')') | (Some('['), ']') | (Some('{'), '}')),
                }
            }
            let right = if right && stack.is_empty() { "True" } else { "False" };
            format!("assert balanced({text:?}) is {right}")
        });
        problem(
            "balanced",
            "text",
            "says whether every bracket of a text of (), [] and {} is closed in the right order.",
            tests.collect(),
        )
    },
];

pub(super) fn generate(seed: u64, index: u64, part: Part) -> Problem {
    fill("code", TEMPLATES, [1, 2], seed, index, part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Limits;

    #[test]
    fn programs_are_found_in_answers() {
        assert_eq!(program("x = 1"), "x = 1");
        assert_eq!(program("Sure:\n```python\nx = 1\ny = 2\n```\nThat is it.\n```\nz\n```"), "x = 1\ny = 2\n");
        assert_eq!(program("```\nx = 1"), "x = 1\n");
    }

    #[test]
    fn tests_decide() {
        let sandbox = match Sandbox::new(Limits::default()) {
            Ok(sandbox) => sandbox,
            Err(error) => return eprintln!("NOT TESTED: {error}"),
        };
        let tests = ["assert f(2) == 4", "assert f(\"a\\\"b\") == 'a\"ba\"b'", "assert f(3) == 9"].map(str::to_owned);
        let scored = |answer: &str| score(&sandbox, answer, &tests).unwrap();
        assert_eq!(scored("```python\ndef f(x):\n    return x * 2\n```"), 2.0 / 3.0);
        assert_eq!(scored("def f(x): return x * x if x == 3 else x * 2"), 1.0);
        assert_eq!(scored("def f(x) return"), 0.0);
        assert_eq!(scored("import sys\nsys.exit(0)"), 0.0);
        assert_eq!(scored("print('passed-')\nwhile True: pass"), 0.0);
        assert_eq!(scored("def f(x):\n    raise SystemExit"), 0.0);
    }

    /// What the generator calls right is right: a solution of each kind passes.
    #[test]
    fn generated_tests_can_be_passed() {
        let sandbox = match Sandbox::new(Limits::default()) {
            Ok(sandbox) => sandbox,
            Err(error) => return eprintln!("NOT TESTED: {error}"),
        };
        let best_run =
            "def best_run(n):\n    return max(sum(n[i:j]) for i in range(len(n)) for j in range(i + 1, len(n) + 1))";
        let balanced = "def balanced(t):\n    while t != (s := t.replace('()', '').replace('[]', '').replace('{}', '')): t = s\n    return t == ''";
        for index in 0..6 {
            let problem = generate(1, index, Part::Test);
            let answer = if problem.prompt.contains("best_run") { best_run } else { balanced };
            assert_eq!(score(&sandbox, answer, &problem.tests).unwrap(), 1.0, "{problem:?}");
        }
    }
}
