//! How foreign formats spell a token's bytes.

/// The character that GPT-2 writes for `byte`: itself where it prints, else one of the
/// characters from U+0100 on, in order.
pub(super) fn byte_to_char(byte: u8) -> char {
    let before = |range: std::ops::RangeInclusive<u8>| range.count() as u32;
    let shifted = match byte {
        0x00..=0x20 => u32::from(byte),
        0x7f..=0xa0 => before(0x00..=0x20) + u32::from(byte - 0x7f),
        0xad => before(0x00..=0x20) + before(0x7f..=0xa0),
        _ => return char::from(byte),
    };
    char::from_u32(0x100 + shifted).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The inverse of [`byte_to_char`].
pub(super) fn char_to_byte(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        code => u8::try_from(code).ok().filter(|&byte| byte_to_char(byte) == character),
    }
}

/// The bytes that GPT-2 spells `text`, if it is such a spelling.
pub(super) fn spelled_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(char_to_byte).collect()
}

/// GPT-2's spelling of `bytes`.
pub(super) fn spell_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte_to_char(byte)).collect()
}

/// SentencePiece's name of a byte, `<0x0A>`.
pub(super) fn byte_name(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The inverse of [`byte_name`].
pub(super) fn named_byte(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (byte_name(byte).as_bytes() == text).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        let spelled: std::collections::HashSet<char> = (0..=255).map(byte_to_char).collect();
        assert_eq!(spelled.len(), 256);
        for byte in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
            assert_eq!(named_byte(byte_name(byte).as_bytes()), Some(byte));
        }
        assert_eq!(spell_bytes(b" a\n"), "ĠaĊ");
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(named_byte(b"<0xa>"), None);
    }
}
