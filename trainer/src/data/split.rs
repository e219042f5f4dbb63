//! Which drafts are kept out of training.

use crate::random::share_of;

/// Whether the draft named `id` is held out, where a `share` of all is. Depends on nothing but
/// these: drafts that are added, removed or moved leave the others where they are.
pub fn is_held_out(id: &str, seed: u64, share: f64) -> bool {
    // In [0, 1), so that a share of 1 is everything.
    share_of(seed, "held out", id) < share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_and_grows_by_inclusion() {
        let ids: Vec<String> = (0..4000).map(|at| format!("draft-{at}")).collect();
        let held_out = |seed, share| ids.iter().filter(|id| is_held_out(id, seed, share)).count();
        assert_eq!(held_out(1, 0.0), 0);
        assert_eq!(held_out(1, 1.0), 4000);
        assert!((350..450).contains(&held_out(1, 0.1)), "{}", held_out(1, 0.1));
        assert!(ids.iter().all(|id| !is_held_out(id, 1, 0.1) || is_held_out(id, 1, 0.2)));
        assert!(ids.iter().any(|id| is_held_out(id, 1, 0.1) != is_held_out(id, 2, 0.1)));
    }
}
