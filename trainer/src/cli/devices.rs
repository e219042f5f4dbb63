//! `critic-train devices`

use critic_trainer::device;

/// One line for each device, and how to get the others.
pub fn list() {
    for name in device::available() {
        println!("{name}");
    }
    for family in device::missing() {
        eprintln!("not in this build: {family} (cargo install critic-trainer --features {family})");
    }
}
