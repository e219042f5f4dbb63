use super::page::duration;
use super::*;
use crate::metrics::Point;
use crate::random::Random;
use crate::run::InputFile;
use serde_json::json;

fn description() -> RunDescription {
    let file = |name: &str| InputFile {
        name: name.into(),
        path: name.into(),
        sha256: "9f86d081884c7d659a2feaa0c55ad015".repeat(2),
    };
    RunDescription::new(
        file("smollm2-135m.critic"),
        file("math & <code>.jsonl"),
        json!({
            "objective": "rco", "normalizer": "centred", "beta": 0.1, "seed": 7, "device": "flex",
            "lora": {"rank": 16, "alpha": 32, "dropout": 0.05, "targets": ["attention.q", "attention.v"]},
            "learning_rate": 2e-4, "warmup": 30, "steps": 600, "max_tokens": 1024, "resume_from": null,
        }),
    )
}

/// A run that looks like one: falling losses, rising utility, points around the line.
fn synthetic(steps: u64) -> (Vec<StepMetrics>, Vec<EvaluationMetrics>) {
    let mut random = Random::new(1, "synthetic", &[]);
    let mut normal = move || -> f64 { (0..12).map(|_| random.uniform()).sum::<f64>() - 6.0 };
    let schedule = crate::schedule::Schedule { peak: 2e-4, warmup: steps / 20, steps, floor: 0.1 };
    let progress = |step: u64| 1.0 - (-4.0 * step as f64 / steps as f64).exp();
    let trained = (1..=steps).map(|step| StepMetrics {
        step,
        loss: (11.0 - 8.5 * progress(step)) * (1.0 + 0.18 * normal()).abs(),
        residual: (4.7 - 2.4 * progress(step)) * (1.0 + 0.1 * normal()),
        kl: 0.9 * progress(step) * (1.0 + 0.2 * normal()),
        mean_cu: 0.55 + 0.12 * progress(step) + 0.06 * normal(),
        learning_rate: schedule.learning_rate(step),
        gradient_norm: (1.0 + 4.0 * (1.0 - progress(step))) * (1.0 + 0.25 * normal()).abs(),
        tokens: 4096,
        seconds: 1.73,
        groups: 8,
        ..StepMetrics::default()
    });
    let trained = trained.collect();
    let mut random = Random::new(1, "points", &[]);
    let mut normal = move || -> f64 { (0..12).map(|_| random.uniform()).sum::<f64>() - 6.0 };
    let evaluated = (0..=10).map(|at| {
        let step = at * steps / 10;
        let points = (0..240).map(|point| {
            let utility = ((0.55 + 0.3 * normal()).clamp(0.0, 1.0) * 10.0).round() / 10.0;
            let advantage = progress(step) * (0.8 * (utility - 0.5) + 0.04) + 0.12 * progress(step) * normal();
            Point { group: format!("draft-{}", point / 4), advantage, utility }
        });
        let progress = progress(step);
        let metrics = EvaluationMetrics {
            step,
            loss: 11.2 - 7.9 * progress,
            residual: 4.7 - 2.2 * progress,
            kl: 0.85 * progress,
            mean_cu: 0.55 + 0.12 * progress,
            ..EvaluationMetrics::default()
        };
        metrics.with_points(points.collect())
    });
    (trained, evaluated.collect())
}

fn html(steps: &[StepMetrics], evaluations: &[EvaluationMetrics]) -> String {
    Report { title: "rco-<1>", description: &description(), steps, evaluations }.html()
}

#[test]
fn the_page_needs_nothing_else_and_is_small() {
    let (steps, evaluations) = synthetic(5000);
    let page = html(&steps, &evaluations);
    assert_eq!(page.matches("<svg ").count(), 8);
    assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
    for part in ["<script", "src=", "@import", "url(", "NaN", "inf"] {
        assert!(!page.contains(part), "{part}");
    }
    let addresses = page.match_indices("http").filter(|(at, _)| !page[*at..].starts_with("http://www.w3.org/2000/svg"));
    assert_eq!(addresses.count(), 0);
    assert!(page.contains("rco-&lt;1&gt;") && page.contains("math &amp; &lt;code&gt;.jsonl") && !page.contains("<1>"));
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("lora.rank"));
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[test]
fn every_colour_has_its_variable() {
    let (steps, evaluations) = synthetic(50);
    let page = html(&steps, &evaluations);
    let known: Vec<String> =
        Role::ALL.iter().map(|role| role.light()).map(|c| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2)).collect();
    for attribute in ["fill=\"#", "stroke=\"#"] {
        let body = &page[page.find("<body>").unwrap()..];
        for (at, _) in body.match_indices(attribute) {
            let colour = &body[at + attribute.len() - 1..][..7];
            let element = &body[body[..at].rfind('<').unwrap()..][..120];
            let invisible = element.contains("opacity=\"0\"");
            assert!(invisible || known.iter().any(|known| known == colour), "{element}");
        }
    }
}

#[test]
fn odd_runs_have_a_page_too() {
    assert!(html(&[], &[]).contains("No steps were taken yet."));
    let (steps, evaluations) = synthetic(10);
    _ = html(&steps[..1], &[]);
    _ = html(&[], &evaluations[..1]);
    let broken = StepMetrics { step: 1, loss: f64::NAN, kl: f64::INFINITY, ..StepMetrics::default() };
    assert!(!html(&[broken], &[EvaluationMetrics::default()]).contains("NaN"));
}

#[test]
fn a_report_is_written_into_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("first");
    let run = crate::run::RunDirectory::create(&path, &description()).unwrap();
    let (steps, evaluations) = synthetic(20);
    let mut metrics = run.metrics(0).unwrap();
    steps.iter().for_each(|step| metrics.append(step).unwrap());
    let mut journal = run.evaluations(0).unwrap();
    evaluations.iter().for_each(|evaluation| journal.append(evaluation).unwrap());
    write_report(&path).unwrap();
    let page = std::fs::read_to_string(path.join("report.html")).unwrap();
    assert!(page.contains("<h1>first</h1>") && page.contains("20 steps, 160 groups"));
}

#[test]
fn numbers_as_people_write_them() {
    let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
    check(0.0, "0");
    check(5.5e-17, "0");
    check(0.5, "0.5");
    check(-0.125, "−0.125");
    check(1234.0, "1234");
    check(100_000.0, "100000");
    check(2.71849, "2.718");
    check(2e-4, "2e−4");
    check(1.5e9, "1.5e9");
    assert_eq!(duration(59.0), "59.0 s");
    assert_eq!(duration(125.0), "2 min");
    assert_eq!(duration(7260.0), "2 h 1 min");
}

/// Writes a page of a synthetic run to the file that `REPORT_SAMPLE` names, to be looked at.
#[test]
fn sample() {
    let Some(path) = std::env::var_os("REPORT_SAMPLE") else { return };
    let (steps, evaluations) = synthetic(600);
    std::fs::write(path, html(&steps, &evaluations)).unwrap();
}
