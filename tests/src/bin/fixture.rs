//! Fetches and converts the real model that tests and benchmarks use, and prints where it is.

fn main() {
    println!("{}", critic_tests::smollm2_path().display());
}
