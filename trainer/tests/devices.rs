//! The same steps on the CPU and on a graphics device: `cargo xtask check-wgpu` runs this on a software Vulkan.
#![cfg(feature = "wgpu")]

mod common;

use std::ops::ControlFlow::Continue;
use std::sync::atomic::AtomicBool;

use common::{hf, options, scored};
use critic_trainer::job::Job;
use critic_trainer::train::TrainOptions;

#[test]
fn ten_steps_agree_with_the_cpu() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = scored(folder.path(), 4);
    let losses = |device: &str, name: &str| -> Vec<f64> {
        let mut options = options(10, true);
        options.device = device.to_owned();
        options.held_out = 0.0;
        // Small steps: those of Adam are signs of gradients at first, which rounding can turn.
        options.train = TrainOptions { learning_rate: 1e-3, evaluate_every: 0, ..options.train };
        let job =
            Job { run: folder.path().join(name), model: hf("qwen2-bias"), data: data.clone(), init: None, options };
        job.run(&AtomicBool::new(false), &mut |_| Continue(())).unwrap_or_else(|error| panic!("{device}: {error}"));
        critic_trainer::run::measured(&job.run).expect("metrics").0.iter().map(|step| step.loss).collect()
    };
    let graphics = std::env::var("CRITIC_TEST_DEVICE").unwrap_or_else(|_| "wgpu:cpu".to_owned());
    let (cpu, graphics) = (losses("flex", "cpu"), losses(&graphics, "graphics"));
    println!("| step | flex | graphics |\n| ---: | ---: | ---: |");
    for (at, (a, b)) in cpu.iter().zip(&graphics).enumerate() {
        println!("| {} | {a:.7} | {b:.7} |", at + 1);
    }
    assert_eq!(cpu.len(), 10);
    assert!(cpu[9] < cpu[0], "nothing was learned: {cpu:?}");
    for (a, b) in cpu.iter().zip(&graphics) {
        assert!((a - b).abs() <= 1e-4 * a.abs(), "{a} {b}");
    }
}
