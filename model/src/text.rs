//! Text of guests, peers and files, made safe to draw: the one place where that happens.

use std::borrow::Cow;

/// The longest text that is shown, in characters; names of 100 MB are cut here.
pub const MAX_VISIBLE: usize = 4096;

/// The text with control, escape, bidi, zero-width and other invisible characters as visible placeholders,
/// and cut at [`MAX_VISIBLE`] characters with an ellipsis.
pub fn visible(text: &str) -> Cow<'_, str> {
    let harmless = text.len() <= MAX_VISIBLE && text.chars().all(is_harmless);
    if harmless {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MAX_VISIBLE {
            out.push('…');
            break;
        }
        match c {
            c if is_harmless(c) => out.push(c),
            '\u{0}'..='\u{1f}' => out.push(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}')),
            '\u{7f}' => out.push('␡'),
            _ => out.push('\u{fffd}'),
        }
    }
    Cow::Owned(out)
}

fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_bidi_become_placeholders() {
        assert_eq!(visible("plain név"), "plain név");
        assert_eq!(visible("\u{1b}[2Jx\n"), "␛[2Jx␊");
        assert_eq!(visible("a\u{202e}b\u{9b}c"), "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn long_text_is_cut() {
        let cut = visible(&"x".repeat(100_000)).into_owned();
        assert_eq!(cut.chars().count(), MAX_VISIBLE + 1);
    }
}
