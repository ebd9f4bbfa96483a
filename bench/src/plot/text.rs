//! How much room text takes, estimated, since whoever shows a plot brings the font.

/// A rectangle, from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextBox {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// To the right.
    pub width: f64,
    /// Downwards.
    pub height: f64,
}

impl TextBox {
    /// The box of text that begins, is centred or ends at `x` on the line `baseline`.
    pub fn of(text: &str, x: f64, baseline: f64, size: f64, anchor: Anchor) -> TextBox {
        let width = width(text, size);
        let x = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - width / 2.0,
            Anchor::End => x - width,
        };
        TextBox { x, y: baseline - 0.8 * size, width, height: size }
    }

    /// Whether the two share a point, or come nearer than `gap`.
    pub fn meets(&self, other: &TextBox, gap: f64) -> bool {
        self.x < other.x + other.width + gap
            && other.x < self.x + self.width + gap
            && self.y < other.y + other.height
            && other.y < self.y + self.height
    }
}

/// Which point of a text is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

impl Anchor {
    /// As SVG calls it.
    pub fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// Width of text in a sans-serif font of that size; rather too wide than too narrow.
pub fn width(text: &str, size: f64) -> f64 {
    text.chars().map(|character| size * share(character)).sum()
}

/// Width of a character, as a share of the font's size.
fn share(character: char) -> f64 {
    match character {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | ' ' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '('
        | ')' => 0.4,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '…' => 0.98,
        'A'..='Z' => 0.74,
        ascii if ascii.is_ascii() => 0.62,
        // Scripts whose characters fill a square, and emoji.
        wide if wide >= '\u{1100}' => 1.1,
        _ => 0.68,
    }
}

/// The text, cut to `room` with an ellipsis where it is too long.
pub fn fitted(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_string();
    }
    let mut cut = String::new();
    let mut taken = width("…", size);
    for character in text.chars() {
        taken += size * share(character);
        if taken > room {
            break;
        }
        cut.push(character);
    }
    cut.truncate(cut.trim_end().len());
    cut + "…"
}

/// Text without what XML cannot hold, control characters above all, nor what turns the direction of writing.
pub fn clean(text: &str) -> String {
    let kept = |character: char| match character {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        control if control.is_control() => '\u{fffd}',
        other => other,
    };
    text.chars().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_to_its_room() {
        assert_eq!(fitted("short", 12.0, 100.0), "short");
        let cut = fitted(&"long ".repeat(50), 12.0, 100.0);
        assert!(cut.ends_with('…') && width(&cut, 12.0) <= 100.0, "{cut}");
    }

    #[test]
    fn boxes_meet_where_they_share_a_point() {
        let one = TextBox::of("1 ms", 50.0, 20.0, 12.0, Anchor::Middle);
        assert!(one.meets(&TextBox::of("1 ms", 60.0, 25.0, 12.0, Anchor::Middle), 0.0));
        assert!(!one.meets(&TextBox::of("1 ms", 50.0, 40.0, 12.0, Anchor::Middle), 0.0));
        assert!(!one.meets(&TextBox::of("1 ms", 100.0, 20.0, 12.0, Anchor::Start), 5.0));
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(clean("a\u{0}b\n\u{202e}c<"), "a\u{fffd}b\u{fffd}\u{fffd}c<");
    }
}
