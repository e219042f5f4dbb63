//! What is done to text before it is split: composed form, and the spaces of SentencePiece.
//!
//! SentencePiece spells a space `▁`. The tables hold spaces, so that a token's bytes are its
//! text; hence the mapping goes the other way, and a `▁` in the text becomes a space.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::spec::TokenizerSpec;

/// SentencePiece's spelling of a space.
pub(super) const SPACE_MARK: char = '▁';

/// `text` as the tokenizer sees it, with a space before it where `prefixed`.
pub(super) fn normalize<'t>(spec: &TokenizerSpec, text: &'t str, prefixed: bool) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(text);
    if spec.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
        text = Cow::Owned(text.nfc().collect());
    }
    if !spec.byte_level && text.contains(SPACE_MARK) {
        text = Cow::Owned(text.replace(SPACE_MARK, " "));
    }
    if prefixed { prefix(&text).into() } else { text }
}

/// `text` with a space before it.
pub(super) fn prefix(text: &str) -> String {
    let mut prefixed = String::with_capacity(1 + text.len());
    prefixed.push(' ');
    prefixed.push_str(text);
    prefixed
}
