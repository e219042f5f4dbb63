//! Attention of some queries over one segment of keys and values, and the merge of segments.
//!
//! Softmax is computed online (arXiv 1805.02867) over blocks of [`PAGE_TOKENS`] positions,
//! segments of [`SEGMENT_PAGES`] blocks are merged in order. Blocks and segments begin at
//! fixed positions of the context, so that a query's result depends on its own position
//! alone. Keys lie transposed, sixteen positions to a lane group: a score is one lane's sum
//! over the head, without any sum across lanes.

use super::Op;
use super::prefetch::{LINE, Lines, prefetch, prefetch_to_write};
use super::simd::{Simd, exp, max16, sum16};

/// Positions in a page of the KV cache, and in a block of the online softmax.
pub const PAGE_TOKENS: usize = 64;
/// Pages in a segment: the unit that threads share out when few queries meet a long context.
pub const SEGMENT_PAGES: usize = 8;
/// Most queries that share the loads of keys and values. Instruction sets with few registers
/// take half as many at a time.
pub const QUERIES: usize = 8;

/// How keys and values are stored.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// Widens to f32.
    /// # Safety
    /// `p` is valid for `S::LANES` reads.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
    /// Rounds to nearest.
    fn from_f32(x: f32) -> Self;
    /// The same for `LANES` values.
    /// # Safety
    /// `p` is valid for `S::LANES` writes.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, x: S::F);
}

/// The largest finite f16: an infinity among the values would turn masked weights into NaN.
const F16_MAX: f32 = 65504.0;

impl Element for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u16) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { s.load_f16(p) }
    }

    #[inline(always)]
    fn from_f32(x: f32) -> u16 {
        half::f16::from_f32(x.clamp(-F16_MAX, F16_MAX)).to_bits()
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u16, x: S::F) {
        let x = s.min(s.max(x, s.splat(-F16_MAX)), s.splat(F16_MAX));
        // SAFETY: as the caller promises.
        unsafe { s.store_f16(p, x) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { s.load(p) }
    }

    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, x: S::F) {
        // SAFETY: as the caller promises.
        unsafe { s.store(p, x) }
    }
}

/// A query's softmax so far: largest score, Σ e^(score − largest). Its weighted sum of
/// values lies beside it.
#[derive(Clone, Copy)]
pub struct Softmax {
    /// Largest score. Starts far below all, but finite, so that no ∞ − ∞ can arise.
    pub max: f32,
    /// Σ e^(score − max)
    pub sum: f32,
}

impl Default for Softmax {
    fn default() -> Self {
        Self { max: -1e30, sum: 0.0 }
    }
}

/// One layer's and one KV head's part of a page: keys `[4, head_dim, 16]`, then values
/// `[64, head_dim]`.
#[derive(Clone, Copy)]
pub struct PagePart<E>(pub *const E);

impl<E> PagePart<E> {
    /// Asks memory for what a query of a position in the page has to do with: the position's own key and value, to be stored,
    /// with the keys that lie between its own numbers, and the keys and values before it.
    pub fn prefetch(self, slot: usize, head_dim: usize) {
        let (group, row) = (16 * head_dim * size_of::<E>(), head_dim * size_of::<E>());
        let lines = |at: usize, len: usize| Lines::new(self.0.cast::<u8>().wrapping_add(at), 1, len);
        let (keys, values) = (slot / 16 * group, PAGE_TOKENS * row);
        lines(keys, group).chain(lines(values + slot * row, row)).for_each(prefetch_to_write);
        lines(0, keys).chain(lines(values, slot * row)).for_each(prefetch);
    }
}

/// What is kept of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// What queries are compared with.
    Key,
    /// What they get.
    Value,
}

/// Stores the key or the value of one position in a page part.
///
/// # Safety
/// To run it: `part` is a page part of `x.len()` wide heads whose key, or value, at `slot`, below [`PAGE_TOKENS`], no other
/// thread reads or writes.
pub struct StorePosition<'a, E> {
    /// Keys `[4, head_dim, 16]`, then values `[64, head_dim]`.
    pub part: *mut E,
    /// Position in the page.
    pub slot: usize,
    /// Which of the two `x` is.
    pub kept: Kept,
    /// `[head_dim]`, a multiple of 16.
    pub x: &'a [f32],
}

impl<E: Element> Op for StorePosition<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { part, slot, kept, x } = self;
        let dim = x.len();
        assert!(slot < PAGE_TOKENS && dim.is_multiple_of(16));
        // SAFETY: slots are below 64, columns below head_dim: inside the part; LANES divides 16.
        unsafe {
            let column = part.add(slot / 16 * 16 * dim + slot % 16);
            let row = part.add(PAGE_TOKENS * dim + slot * dim);
            let mut lanes = [E::default(); 16];
            for at in (0..dim).step_by(S::LANES) {
                let x = s.load(x.as_ptr().add(at));
                match kept {
                    Kept::Value => E::store(s, row.add(at), x),
                    Kept::Key => {
                        E::store(s, lanes.as_mut_ptr(), x);
                        for (lane, &element) in lanes.iter().enumerate().take(S::LANES) {
                            *column.add((at + lane) * 16) = element;
                        }
                    }
                }
            }
        }
    }
}

/// Up to [`QUERIES`] queries over the pages of one segment.
pub struct AttendSegment<'a, E> {
    /// The segment's pages.
    pub pages: &'a [PagePart<E>],
    /// Position of the first page's first token.
    pub start: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Scaled queries, `head_dim` values each.
    pub queries: &'a [*const f32],
    /// Position of each query.
    pub positions: &'a [usize],
    /// How far back a query sees, itself included.
    pub window: usize,
    /// Softmax state of each query, updated.
    pub softmax: &'a mut [Softmax],
    /// Weighted values `[queries, head_dim]`, updated.
    pub values: &'a mut [f32],
}

impl<E: Element> Op for AttendSegment<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttendSegment { pages, start, head_dim, queries, positions, window, softmax, values } = self;
        let n = queries.len();
        assert!(n <= QUERIES && positions.len() == n && softmax.len() == n);
        assert!(values.len() == n * head_dim && head_dim.is_multiple_of(16));
        for (index, &page) in pages.iter().enumerate() {
            let mut page = Page {
                part: page,
                start: start + index * PAGE_TOKENS,
                head_dim,
                // Pages lie apart, so that the processor does not see by itself what comes next.
                next: pages.get(index + 1).copied(),
            };
            // All queries meet a page while it is in the first-level cache.
            let mut first = 0;
            while first < n {
                let count = match n - first {
                    8.. if S::REGISTERS >= 32 => 8,
                    left => left.min(4),
                };
                let range = first..first + count;
                let group = Group {
                    queries: &queries[range.clone()],
                    positions: &positions[range.clone()],
                    window,
                    softmax: &mut softmax[range.clone()],
                    values: &mut values[range.start * head_dim..range.end * head_dim],
                };
                match count {
                    1 => attend::<S, E, 1>(s, page, group),
                    2 => attend::<S, E, 2>(s, page, group),
                    3 => attend::<S, E, 3>(s, page, group),
                    4 => attend::<S, E, 4>(s, page, group),
                    _ => attend::<S, E, 8>(s, page, group),
                }
                first += count;
                page.next = None;
            }
        }
    }
}

/// A page of the segment.
#[derive(Clone, Copy)]
struct Page<E> {
    part: PagePart<E>,
    /// Position of its first token.
    start: usize,
    head_dim: usize,
    /// What memory is asked for meanwhile.
    next: Option<PagePart<E>>,
}

/// Queries that share the loads of a page: those of an [`AttendSegment`], or some of them.
struct Group<'a> {
    queries: &'a [*const f32],
    positions: &'a [usize],
    window: usize,
    softmax: &'a mut [Softmax],
    values: &'a mut [f32],
}

#[inline(always)]
fn attend<S: Simd, E: Element, const N: usize>(s: S, page: Page<E>, group: Group<'_>) {
    let newest = group.positions.iter().copied().max().unwrap_or(0);
    let oldest = group.positions.iter().map(|p| (p + 1).saturating_sub(group.window)).min().unwrap_or(0);
    if page.start > newest || page.start + PAGE_TOKENS <= oldest {
        return;
    }
    let filled = (newest + 1 - page.start).min(PAGE_TOKENS);
    let queries: [*const f32; N] = std::array::from_fn(|q| group.queries[q]);
    let mut scores = [[0.0f32; PAGE_TOKENS]; N];
    // SAFETY: the page is as its type says, `run` checked head_dim, and queries are as long.
    unsafe { score_block::<S, E, N>(s, page, filled, &queries, &mut scores) };
    let groups = filled.div_ceil(16);
    for (scores, &position) in scores.iter_mut().zip(group.positions) {
        mask(&mut scores[..groups * 16], page.start, position, (position + 1).saturating_sub(group.window));
    }
    let corrections = soften::<S, N>(s, &mut scores, groups, group.softmax);
    // SAFETY: as above; the group's values are [N, head_dim].
    unsafe { weigh_block::<S, E, N>(s, page, filled, &scores, &corrections, group.values) };
}

/// `scores[q][key] = Σ_d query[q][d] · key[d]`, for whole groups of 16 keys up to `filled`.
///
/// # Safety
/// The page is as its type says, of heads as wide as a multiple of sixteen, `filled` at most [`PAGE_TOKENS`]; each query is
/// `head_dim` long.
#[inline(always)]
unsafe fn score_block<S: Simd, E: Element, const N: usize>(
    s: S,
    Page { part: PagePart(keys), head_dim, next, .. }: Page<E>,
    filled: usize,
    queries: &[*const f32; N],
    scores: &mut [[f32; PAGE_TOKENS]; N],
) {
    // Two registers of keys at a time: with four queries, eight sums hide the latency of fma.
    for first in (0..filled.next_multiple_of(16)).step_by(2 * S::LANES) {
        let second = first + S::LANES;
        let column = |key: usize| key / 16 * 16 * head_dim + key % 16;
        let mut sums = [[s.splat(0.0); 2]; N];
        // Behind the filled groups is memory that nobody needs: the first register's keys once more.
        let (a, b) = (column(first), column(if second < filled.next_multiple_of(16) { second } else { first }));
        // Where registers are wide, keys of two columns are a cache line or more.
        for d in (0..head_dim).step_by(2) {
            if let Some(PagePart(next)) = next {
                let at = first * head_dim + d * 2 * S::LANES;
                for line in 0..(4 * S::LANES * size_of::<E>()).div_ceil(LINE) {
                    prefetch(next.wrapping_add(at).wrapping_byte_add(line * LINE));
                }
            }
            for d in [d, d + 1] {
                // SAFETY: both columns lie in the page.
                unsafe {
                    let keys = [E::load(s, keys.add(a + d * 16)), E::load(s, keys.add(b + d * 16))];
                    for q in 0..N {
                        let x = s.splat(*queries[q].add(d));
                        sums[q][0] = s.fma(x, keys[0], sums[q][0]);
                        sums[q][1] = s.fma(x, keys[1], sums[q][1]);
                    }
                }
            }
        }
        for q in 0..N {
            // SAFETY: second + LANES ≤ 64.
            unsafe {
                s.store(scores[q].as_mut_ptr().add(first), sums[q][0]);
                s.store(scores[q].as_mut_ptr().add(second), sums[q][1]);
            }
        }
    }
}

/// Keys outside `from..=position` get −∞.
#[inline(always)]
fn mask(scores: &mut [f32], start: usize, position: usize, from: usize) {
    if start >= from && start + PAGE_TOKENS <= position + 1 {
        return;
    }
    for (key, score) in scores.iter_mut().enumerate() {
        if start + key > position || start + key < from {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Turns scores of as many `groups` of sixteen keys into weights e^(score − max), updates the softmaxes, and returns the
/// factors for what was summed before.
#[inline(always)]
fn soften<S: Simd, const N: usize>(
    s: S,
    scores: &mut [[f32; PAGE_TOKENS]; N],
    groups: usize,
    softmax: &mut [Softmax],
) -> [f32; 16] {
    assert!((1..=PAGE_TOKENS / 16).contains(&groups));
    // All queries' factors are computed as one register's lanes.
    let mut corrections = [0.0; 16];
    for (q, scores) in scores.iter().enumerate() {
        let mut lanes = [0.0; 16];
        for lane in (0..16).step_by(S::LANES) {
            // SAFETY: lane + LANES ≤ 16, and there are as many groups of sixteen.
            unsafe {
                let p = scores.as_ptr().add(lane);
                let mut largest = s.splat(f32::NEG_INFINITY);
                for group in 0..groups {
                    // Of a NaN on the left nothing remains, however many groups there are.
                    largest = s.max(s.load(p.add(group * 16)), largest);
                }
                s.store(lanes.as_mut_ptr().add(lane), largest);
            }
        }
        let before = softmax[q].max;
        softmax[q].max = before.max(max16(&lanes));
        corrections[q] = before - softmax[q].max;
    }
    for lane in (0..16).step_by(S::LANES) {
        // SAFETY: lane + LANES ≤ 16.
        unsafe {
            let p = corrections.as_mut_ptr().add(lane);
            s.store(p, exp(s, s.load(p)));
        }
    }
    for (q, scores) in scores.iter_mut().enumerate() {
        let mut lanes = [0.0; 16];
        let max = s.splat(softmax[q].max);
        for lane in (0..16).step_by(S::LANES) {
            let mut sum = s.splat(0.0);
            for group in 0..groups {
                // SAFETY: as above.
                unsafe {
                    let p = scores.as_mut_ptr().add(group * 16 + lane);
                    let weight = exp(s, s.sub(s.load(p), max));
                    s.store(p, weight);
                    sum = s.add(sum, weight);
                }
            }
            // SAFETY: lane + LANES ≤ 16.
            unsafe { s.store(lanes.as_mut_ptr().add(lane), sum) };
        }
        softmax[q].sum = softmax[q].sum * corrections[q] + sum16(&lanes);
    }
    corrections
}

/// `values[q] = values[q] · correction[q] + Σ_key weight[q][key] · value[key]`
///
/// # Safety
/// As in [`score_block`]; `values` is `[N, head_dim]`.
#[allow(clippy::needless_range_loop, reason = "q runs over four arrays at once")]
#[inline(always)]
unsafe fn weigh_block<S: Simd, E: Element, const N: usize>(
    s: S,
    Page { part: PagePart(keys), head_dim, next: ahead, .. }: Page<E>,
    filled: usize,
    weights: &[[f32; PAGE_TOKENS]; N],
    corrections: &[f32; 16],
    values: &mut [f32],
) {
    let rows = keys.wrapping_add(PAGE_TOKENS * head_dim);
    let mut at = 0;
    while at < head_dim {
        let two = at + 2 * S::LANES <= head_dim;
        let next = if two { at + S::LANES } else { at };
        let mut sums = [[s.splat(0.0); 2]; N];
        // Once for each cache line of a row of f16.
        let ask = ahead.filter(|_| (at * size_of::<E>()).is_multiple_of(LINE));
        // SAFETY: at and next are columns of a row of head_dim, filled ≤ 64 rows.
        unsafe {
            for q in 0..N {
                let row = values.as_ptr().add(q * head_dim);
                let correction = s.splat(corrections[q]);
                sums[q] = [s.mul(s.load(row.add(at)), correction), s.mul(s.load(row.add(next)), correction)];
            }
            for key in 0..filled {
                let row = rows.add(key * head_dim);
                if let Some(PagePart(page)) = ask {
                    prefetch(page.wrapping_add((PAGE_TOKENS + key) * head_dim + at));
                }
                let value = [E::load(s, row.add(at)), E::load(s, row.add(next))];
                for q in 0..N {
                    let weight = s.splat(*weights[q].get_unchecked(key));
                    sums[q][0] = s.fma(weight, value[0], sums[q][0]);
                    sums[q][1] = s.fma(weight, value[1], sums[q][1]);
                }
            }
            for q in 0..N {
                let row = values.as_mut_ptr().add(q * head_dim);
                s.store(row.add(at), sums[q][0]);
                s.store(row.add(next), sums[q][1]);
            }
        }
        at = next + S::LANES;
    }
}

#[inline(always)]
fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; 16];
    // SAFETY: LANES ≤ 16.
    unsafe { s.store(lanes.as_mut_ptr(), exp(s, s.splat(x))) };
    lanes[0]
}

/// Merges a later segment's softmax and values into an earlier one's.
pub struct MergeSegment<'a> {
    /// Softmax of all segments so far.
    pub softmax: &'a mut Softmax,
    /// Their weighted values `[head_dim]`.
    pub values: &'a mut [f32],
    /// The next segment's softmax.
    pub next: Softmax,
    /// Its weighted values `[head_dim]`.
    pub next_values: &'a [f32],
}

impl Op for MergeSegment<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(self.values.len(), self.next_values.len());
        let max = self.softmax.max.max(self.next.max);
        let (a, b) = (exp_one(s, self.softmax.max - max), exp_one(s, self.next.max - max));
        self.softmax.sum = self.softmax.sum * a + self.next.sum * b;
        self.softmax.max = max;
        for (value, next) in self.values.iter_mut().zip(self.next_values) {
            *value = *value * a + next * b;
        }
    }
}
