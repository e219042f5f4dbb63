//! The KV cache: pages of keys and values, shared between sequences until one writes.
//!
//! A sequence is a list of pages of [`PAGE_TOKENS`] positions, all layers in each. Forking
//! clones the list; writing to a page that another sequence also holds copies that page
//! alone. A page that nobody holds any more is zeroed (it is somebody's text) and kept for
//! reuse, so that decoding does not allocate. Pages may also lie in a mapped file
//! ([`crate::prefix`]), as if another sequence held them.
//!
//! Not here: how keys and values are computed, or which tokens are wanted (see
//! [`crate::session`]).

use std::cell::UnsafeCell;
use std::sync::{Arc, Mutex};

use crate::adapter::NEVER;
use crate::error::Result;
use crate::file::Config;
use crate::kernels::Kernel;
use crate::kernels::attention::{Element, Kept, PAGE_TOKENS, PagePart, StorePosition};
use crate::map::{Slice, try_zeroed};

/// How keys, values and activations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// Activations as eight-bit codes where weights are codes; keys and values in f16.
    #[default]
    Fast,
    /// The same with a second code for what the first leaves: fifteen bits. Twice the arithmetic over the same weights:
    /// reading takes twice as long as with [`Fast`](Self::Fast), writing, which waits for the weights, a fifth to a third
    /// longer.
    Fine,
    /// All activations, keys and values in f32, weights dequantized exactly: the yardstick.
    Exact,
}

/// Where each page lies, and pages to reuse.
pub(crate) struct PageStore {
    precision: Precision,
    kv_heads: usize,
    head_dim: usize,
    words: usize,
    free: Mutex<Vec<Words>>,
}

impl PageStore {
    pub(crate) fn new(config: &Config, precision: Precision) -> Arc<Self> {
        let elements = config.layers * config.kv_heads * 2 * PAGE_TOKENS * config.head_dim;
        let words = if precision == Precision::Exact { elements } else { elements / 2 };
        Arc::new(Self {
            precision,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            words,
            free: Mutex::new(Vec::new()),
        })
    }

    /// Bytes of one page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.words * 4
    }

    /// Elements before the part of (layer, KV head).
    fn part_offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * 2 * PAGE_TOKENS * self.head_dim
    }

    fn page(self: &Arc<Self>) -> Result<Arc<Page>> {
        let reused = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        let words = reused.map_or_else(|| Words::zeroed(self.words), Ok)?;
        Ok(Arc::new(Page { words, store: Arc::clone(self) }))
    }
}

/// Memory of a page, in words that are aligned for both element types. Threads write
/// different keys and values of it at once: see [`Sequence::write`].
enum Words {
    Own(Box<[UnsafeCell<u32>]>),
    /// Never written: see [`Sequence::reserve`].
    Mapped(Slice<u32>),
}

// SAFETY: shared access is through `Sequence::write` and `Sequence::part`, whose contracts
// keep the writer of a key or value alone with it.
unsafe impl Sync for Words {}

impl Words {
    /// Untouched memory costs nothing until it is written: the system hands out zeros.
    fn zeroed(len: usize) -> Result<Self> {
        let words = Box::into_raw(try_zeroed::<u32>(len)?.into_boxed_slice());
        // SAFETY: UnsafeCell<u32> has the layout of u32.
        Ok(Self::Own(unsafe { Box::from_raw(words as *mut [UnsafeCell<u32>]) }))
    }

    fn as_ptr(&self) -> *mut u32 {
        match self {
            Self::Own(words) => words.as_ptr().cast_mut().cast(),
            Self::Mapped(words) => words.as_ptr().cast_mut(),
        }
    }

    /// The memory, if it may be written.
    fn get_mut(&mut self) -> Option<&mut [u32]> {
        let Self::Own(words) = self else { return None };
        // SAFETY: exclusive, and the layout is that of u32.
        Some(unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) })
    }
}

/// Keys and values of [`PAGE_TOKENS`] positions. Zero where nothing was written.
pub(crate) struct Page {
    words: Words,
    store: Arc<PageStore>,
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut words = std::mem::replace(&mut self.words, Words::Own(Box::default()));
        let Some(memory) = words.get_mut() else { return };
        zero(memory);
        self.store.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(words);
    }
}

/// Zeros memory in a way that the compiler keeps although nothing reads it again.
fn zero(words: &mut [u32]) {
    words.fill(0);
    std::hint::black_box(words);
}

/// Bytes of keys and values that `tokens` tokens take.
pub fn cache_bytes(config: &Config, precision: Precision, tokens: usize) -> usize {
    tokens.div_ceil(PAGE_TOKENS) * PageStore::new(config, precision).page_bytes()
}

/// A context: tokens and their keys and values.
pub struct Sequence {
    store: Arc<PageStore>,
    pages: Vec<Arc<Page>>,
    tokens: Vec<u32>,
    adapted_from: usize,
}

impl Sequence {
    pub(crate) fn new(store: &Arc<PageStore>) -> Self {
        Self { store: Arc::clone(store), pages: Vec::new(), tokens: Vec::new(), adapted_from: NEVER }
    }

    /// Index of the first token on which the adapter acted, as it did on all that follow;
    /// [`NEVER`] where there is none. Keys and values before it are the base model's.
    pub fn adapted_from(&self) -> usize {
        self.adapted_from
    }

    /// Tokens evaluated so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens evaluated so far: the position of the next one.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing was evaluated.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Another continuation of the same prefix. Shares all pages.
    pub fn fork(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            pages: self.pages.clone(),
            tokens: self.tokens.clone(),
            adapted_from: self.adapted_from,
        }
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.pages.truncate(self.tokens.len().div_ceil(PAGE_TOKENS));
        if self.adapted_from >= self.tokens.len() {
            self.adapted_from = NEVER;
        }
    }

    /// How many tokens at the start of `tokens`, the adapter acting from `adapted_from` on, are
    /// evaluated already: the same tokens, and all with or all without it.
    pub fn common_prefix(&self, tokens: &[u32], adapted_from: usize) -> usize {
        let same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if adapted_from == self.adapted_from { same } else { same.min(adapted_from).min(self.adapted_from) }
    }

    /// Makes the pages of the next `count` positions present and this sequence's own.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<()> {
        let end = self.tokens.len() + count;
        for index in self.tokens.len() / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS) {
            if index == self.pages.len() {
                self.pages.push(self.store.page()?);
            } else if Arc::get_mut(&mut self.pages[index]).and_then(|page| page.words.get_mut()).is_none() {
                let mut copy = self.store.page()?;
                let words = Arc::get_mut(&mut copy).and_then(|page| page.words.get_mut()).expect("a new page");
                // SAFETY: both pages have the store's size; `&mut self` and `commit` see to it
                // that nobody writes to positions which several sequences share.
                words.copy_from_slice(unsafe {
                    std::slice::from_raw_parts(self.pages[index].words.as_ptr(), words.len())
                });
                self.pages[index] = copy;
            }
        }
        self.tokens.reserve(count);
        Ok(())
    }

    /// Counts `tokens`, whose keys and values were written, as evaluated, with the adapter or
    /// without it.
    pub(crate) fn commit(&mut self, tokens: &[u32], adapted: bool) {
        if adapted {
            self.adapted_from = self.adapted_from.min(self.tokens.len());
        }
        self.tokens.extend_from_slice(tokens);
        debug_assert!(self.tokens.len() <= self.pages.len() * PAGE_TOKENS);
    }

    /// The words of the whole pages that the base model alone filled: those of the first
    /// `tokens / PAGE_TOKENS` pages.
    pub(crate) fn base_pages(&self) -> impl Iterator<Item = &[u32]> {
        let pages = self.tokens.len().min(self.adapted_from) / PAGE_TOKENS;
        // SAFETY: whole pages are committed, so that nobody writes to them, and have the store's size.
        self.pages[..pages]
            .iter()
            .map(|page| unsafe { std::slice::from_raw_parts(page.words.as_ptr(), self.store.words) })
    }

    /// In place of what this held: `tokens`, whole pages of them, whose keys and values the base model
    /// computed; `words` are those of all pages, in a row.
    pub(crate) fn replace_by_base(&mut self, tokens: &[u32], words: &Slice<u32>) {
        assert_eq!(words.len(), tokens.len() / PAGE_TOKENS * self.store.words);
        self.tokens = tokens.to_vec();
        self.adapted_from = NEVER;
        self.pages = (0..tokens.len() / PAGE_TOKENS)
            .map(|page| {
                let words = Words::Mapped(words.part(page * self.store.words..(page + 1) * self.store.words));
                Arc::new(Page { words, store: Arc::clone(&self.store) })
            })
            .collect();
    }

    /// What the words of a page mean, as text: differs where they could not be exchanged.
    pub(crate) fn layout(&self) -> String {
        let PageStore { precision, kv_heads, head_dim, words, .. } = &*self.store;
        format!("{precision:?} {kv_heads} {head_dim} {words} {PAGE_TOKENS}")
    }

    /// Words of a page.
    pub(crate) fn page_words(&self) -> usize {
        self.store.words
    }

    /// Stores the key or value `x`, `[head_dim]`, of (position, layer, KV head).
    ///
    /// # Safety
    /// The position was reserved and not yet committed; no other thread reads or writes what is stored.
    pub(crate) unsafe fn write(
        &self,
        kernel: Kernel,
        position: usize,
        (layer, head): (usize, usize),
        kept: Kept,
        x: &[f32],
    ) {
        let page = self.pages[position / PAGE_TOKENS].words.as_ptr();
        let offset = self.store.part_offset(layer, head);
        assert_eq!(x.len(), self.store.head_dim);
        let slot = position % PAGE_TOKENS;
        // SAFETY: as the caller promises; the page has the precision's element type, and the part
        // lies inside it.
        unsafe {
            match self.store.precision {
                Precision::Fast | Precision::Fine => {
                    kernel.run(StorePosition { part: page.cast::<u16>().add(offset), slot, kept, x });
                }
                Precision::Exact => {
                    kernel.run(StorePosition { part: page.cast::<f32>().add(offset), slot, kept, x });
                }
            }
        }
    }

    /// The part of (layer, KV head) in page `index`.
    pub(crate) fn part<E: Element>(&self, index: usize, layer: usize, head: usize) -> PagePart<E> {
        let offset = self.store.part_offset(layer, head);
        assert!((offset + 2 * PAGE_TOKENS * self.store.head_dim) * size_of::<E>() <= self.store.words * 4);
        // SAFETY: just checked; u32 words are aligned for both element types.
        PagePart(unsafe { self.pages[index].words.as_ptr().cast::<E>().add(offset) })
    }
}
