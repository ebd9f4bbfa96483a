//! Plots of curves as SVG.
//!
//! 1. A plot needs nothing but itself: no script, no font, no image. Its colours are in a style sheet, for light and
//!    dark, so that a page can hold many plots and one style sheet.
//! 2. Each group of curves (a target) has a colour, and a shape of its marks for eyes that do not tell the colours
//!    apart.
//! 3. What has no place on its axis is left out; a plot without anything to show is none.
//! 4. Text does not overlap: ticks that have no room lose their labels, what is too long is cut.

pub mod scale;
pub mod text;

use maud::{Markup, PreEscaped, html};

use self::scale::{Quantity, Scale};
use self::text::{Anchor, TextBox, clean, fitted, width};

/// Width of a plot in its own units: about as many pixels as three have beside each other on a laptop's screen, and
/// one on a telephone's.
const WIDTH: f64 = 400.0;
/// Height of the part that the curves have.
const CURVES_HEIGHT: f64 = 210.0;
const MARGIN: f64 = 10.0;
/// Size of the text at axes and in the legend.
const TEXT: f64 = 12.0;
const TITLE: f64 = 13.5;
/// From one line of text to the next.
const LINE: f64 = 17.0;
/// Length of the sample of a curve in the legend.
const SAMPLE: f64 = 22.0;
/// Colours before they repeat.
const COLOURS: usize = 7;
/// Marks on a curve that is made of many points.
const MARKS: usize = 5;

/// The colours of all plots: of text, lines, and of the groups, in light and in dark. Tell them apart with any kind of
/// colour vision, three to one against their ground.
pub const STYLE: &str = include_str!("plot.css");

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Part of a file's name.
    pub slug: String,
    /// What it shows.
    pub title: String,
    /// What else there is to say of it, beneath.
    pub note: String,
    /// What the axes are called, without the unit where ticks have it.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// Drawn in this order.
    pub curves: Vec<Curve>,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it says.
    pub title: String,
    /// What it measures.
    pub quantity: Quantity,
}

/// A curve.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Whose it is: a target.
    pub group: String,
    /// Number of the group, which chooses colour and mark. Groups have the same one in all plots of a page.
    pub colour: usize,
    /// What of the group it is, where a plot shows several things of each: `p99`.
    pub what: String,
    /// How it is drawn; one for each `what`.
    pub line: Line,
    /// From left to right.
    pub points: Vec<Point>,
    /// Whether each point was measured, and so has a mark of its own.
    pub marked: bool,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Along.
    pub x: f64,
    /// Upwards.
    pub y: f64,
    /// The least and the greatest of what `y` is the middle of.
    pub spread: Option<(f64, f64)>,
    /// Marked as not to be relied on.
    pub doubtful: bool,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// Without gaps.
    #[default]
    Solid,
    /// Long dashes.
    Dashed,
    /// Dots.
    Dotted,
}

impl Point {
    /// Without a spread.
    pub fn new(x: f64, y: f64) -> Point {
        Point { x, y, spread: None, doubtful: false }
    }
}

impl Axis {
    /// An axis with a title.
    pub fn new(title: &str, quantity: Quantity) -> Axis {
        Axis { title: title.into(), quantity }
    }
}

impl Line {
    fn class(self) -> &'static str {
        match self {
            Line::Solid => "solid",
            Line::Dashed => "dashed",
            Line::Dotted => "dotted",
        }
    }
}

impl Plot {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.axes().is_none()
    }

    /// As an element of a page that has [`STYLE`].
    pub fn inline(&self) -> Option<Markup> {
        self.draw(None)
    }

    /// As a file.
    pub fn file(&self) -> Option<String> {
        self.draw(Some(STYLE)).map(|svg| format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", svg.0))
    }

    fn axes(&self) -> Option<(Scale, Scale)> {
        let shown = || self.curves.iter().flat_map(|curve| self.shown(curve));
        let heights = shown().flat_map(|point| {
            let (low, high) = point.spread.unwrap_or((point.y, point.y));
            [point.y, low, high]
        });
        Some((
            Scale::over(self.x.quantity, shown().map(|point| point.x))?,
            Scale::over(self.y.quantity, heights)?,
        ))
    }

    /// The points that have a place.
    fn shown<'a>(&'a self, curve: &'a Curve) -> impl Iterator<Item = Point> + 'a {
        let has_place =
            |point: &&Point| self.x.quantity.can_show(point.x) && self.y.quantity.can_show(point.y);
        curve.points.iter().filter(has_place).copied()
    }

    fn draw(&self, style: Option<&str>) -> Option<Markup> {
        let (x, y) = self.axes()?;
        let legend = Legend::of(self);
        let top = MARGIN + LINE + legend.rows as f64 * LINE + LINE + 14.0;
        let labels = y.ticks().into_iter().map(|tick| width(&self.y.quantity.write(tick), TEXT));
        let left = MARGIN + labels.fold(0.0, f64::max) + 6.0;
        let last = x.ticks().into_iter().fold(0.0, f64::max);
        // Half of the label at the right end hangs over.
        let right = MARGIN + (width(&self.x.quantity.write(last), TEXT) / 2.0 - 4.0).max(0.0);
        let field = Field { left, top, width: WIDTH - left - right, height: CURVES_HEIGHT, x, y };
        let bottom = field.top + field.height;
        let height = bottom + 2.0 * LINE + MARGIN;
        let title = clean(&self.title);
        let curves = self.curves.iter().map(|curve| (curve, self.shown(curve).collect::<Vec<_>>()));
        let curves: Vec<_> = curves.filter(|(_, points)| !points.is_empty()).collect();
        Some(html! {
            svg.plot xmlns="http://www.w3.org/2000/svg" role="img" viewBox=(format!("0 0 {WIDTH} {height:.0}"))
                aria-label=(title) {
                @if !self.note.is_empty() { desc { (clean(&self.note)) } }
                @if let Some(style) = style {
                    style { (PreEscaped(style)) }
                    rect.ground width=(WIDTH) height=(format!("{height:.0}")) {}
                }
                text.title x=(MARGIN) y=(MARGIN + 12.0) font-size=(TITLE) {
                    title { (title) } (fitted(&title, TITLE * 1.06, WIDTH - 2.0 * MARGIN))
                }
                (legend.markup)
                (label(&self.y.title, MARGIN, top - 10.0, Anchor::Start, "axis"))
                (field.grid())
                (label(&self.x.title, left + field.width, bottom + 2.0 * LINE - 1.0, Anchor::End, "axis"))
                // Beneath all curves.
                @for (curve, points) in &curves { (field.band(curve, points)) }
                @for (curve, points) in &curves { (field.curve(curve, points)) }
            }
        })
    }
}

/// Where the curves are.
struct Field {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: Scale,
    y: Scale,
}

impl Field {
    fn across(&self, value: f64) -> f64 {
        self.left + self.x.place(value) * self.width
    }

    fn up(&self, value: f64) -> f64 {
        self.top + (1.0 - self.y.place(value)) * self.height
    }

    /// Ticks, the labels that have room, and lines across.
    fn grid(&self) -> Markup {
        let bottom = self.top + self.height;
        let mut taken: Vec<TextBox> = Vec::new();
        html! {
            g.grid {
                @for tick in self.y.ticks() {
                    line x1=(short(self.left)) x2=(short(self.left + self.width))
                        y1=(short(self.up(tick))) y2=(short(self.up(tick))) {}
                    (tick_label(&self.y.quantity().write(tick), self.left - 6.0, self.up(tick) + 4.0, Anchor::End, &mut taken))
                }
                @for tick in self.x.ticks() {
                    line x1=(short(self.across(tick))) x2=(short(self.across(tick)))
                        y1=(short(self.top)) y2=(short(bottom)) {}
                    (tick_label(&self.x.quantity().write(tick), self.across(tick), bottom + LINE, Anchor::Middle, &mut taken))
                }
            }
        }
    }

    fn curve(&self, curve: &Curve, points: &[Point]) -> Markup {
        let every = points.len().div_ceil(MARKS).max(1);
        // Marks of several groups that lie on one another stay visible when each group begins elsewhere.
        let first = (curve.colour * 2 + 1) * every / 4 % every;
        let has_mark = |index: usize| curve.marked || (points.len() > 2 && index % every == first);
        let name = clean(&format!("{} {}", curve.group, curve.what)).trim().to_string();
        html! {
            g class=(colour_class(curve.colour)) data-series=(name) {
                title { (name) }
                @if points.len() > 1 {
                    path class=(curve.line.class()) d=(self.path(points.iter().map(|point| (point.x, point.y)))) {}
                }
                @for (_, point) in points.iter().enumerate().filter(|(index, _)| has_mark(*index)) {
                    @if let (true, Some((low, high))) = (curve.marked, point.spread) {
                        path.solid d=(self.path([(point.x, low), (point.x, high)].into_iter())) {}
                    }
                    (mark(curve.colour, self.across(point.x), self.up(point.y), point.doubtful))
                }
            }
        }
    }

    /// The area between the least and the greatest, for curves without marks of their own.
    fn band(&self, curve: &Curve, points: &[Point]) -> Markup {
        let spread: Option<Vec<_>> =
            points.iter().map(|point| point.spread.map(|(low, high)| (point.x, low, high))).collect();
        let Some(spread) = spread.filter(|spread| spread.len() > 1 && !curve.marked) else { return html! {} };
        let upper = spread.iter().map(|&(x, _, high)| (x, high));
        let lower = spread.iter().rev().map(|&(x, low, _)| (x, low));
        let outline = self.path(upper.chain(lower)) + "Z";
        html! { g class=(colour_class(curve.colour)) { path.band d=(outline) {} } }
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let steps = points.enumerate().map(|(index, (x, y))| {
            let step = if index == 0 { 'M' } else { 'L' };
            format!("{step}{} {}", short(self.across(x)), short(self.up(y)))
        });
        steps.collect()
    }
}

/// Groups by colour, then the kinds of lines, in as many rows as they take.
struct Legend {
    markup: Markup,
    rows: usize,
}

/// A sample of a curve and what it stands for.
struct Entry {
    class: String,
    line: Line,
    mark: Option<usize>,
    text: String,
}

impl Legend {
    fn of(plot: &Plot) -> Legend {
        let (mut x, mut row) = (MARGIN, 0);
        let mut markup = String::new();
        for entry in Self::entries(plot) {
            let text = fitted(&entry.text, TEXT, WIDTH - 2.0 * MARGIN - SAMPLE - 6.0);
            let room = SAMPLE + 6.0 + width(&text, TEXT);
            if x > MARGIN && x + room > WIDTH - MARGIN {
                (x, row) = (MARGIN, row + 1);
            }
            let y = MARGIN + LINE * (row as f64 + 1.0) + 13.0;
            let sample = html! {
                g class=(entry.class) {
                    path class=(entry.line.class()) d=(format!("M{} {}h{SAMPLE}", short(x), short(y - 4.0))) {}
                    @if let Some(colour) = entry.mark { (mark(colour, x + SAMPLE / 2.0, y - 4.0, false)) }
                }
                (label(&text, x + SAMPLE + 6.0, y, Anchor::Start, "legend"))
            };
            markup += &sample.0;
            x += room + 14.0;
        }
        Legend { rows: if markup.is_empty() { 0 } else { row + 1 }, markup: PreEscaped(markup) }
    }

    fn entries(plot: &Plot) -> Vec<Entry> {
        let drawn = || plot.curves.iter().filter(|curve| plot.shown(curve).next().is_some());
        let mut entries: Vec<Entry> = Vec::new();
        for curve in drawn() {
            let text = clean(&curve.group);
            if !entries.iter().any(|entry| entry.text == text) {
                let class = colour_class(curve.colour);
                entries.push(Entry { class, line: Line::Solid, mark: Some(curve.colour), text });
            }
        }
        let groups = entries.len();
        for curve in drawn().filter(|curve| !curve.what.is_empty()) {
            let text = clean(&curve.what);
            if !entries[groups..].iter().any(|entry| entry.text == text) {
                entries.push(Entry { class: "curve any".into(), line: curve.line, mark: None, text });
            }
        }
        entries
    }
}

/// Of a group of marks and lines in the colour of a target.
fn colour_class(colour: usize) -> String {
    format!("curve c{}", colour % COLOURS)
}

fn label(text: &str, x: f64, y: f64, anchor: Anchor, class: &str) -> Markup {
    html! {
        text class=(class) x=(short(x)) y=(short(y)) text-anchor=(anchor.name()) font-size=(TEXT) { (text) }
    }
}

/// The label, unless it would come too near to another.
fn tick_label(text: &str, x: f64, y: f64, anchor: Anchor, taken: &mut Vec<TextBox>) -> Markup {
    let own = TextBox::of(text, x, y, TEXT, anchor);
    if own.x < 0.0 || own.x + own.width > WIDTH || taken.iter().any(|other| own.meets(other, 5.0)) {
        return html! {};
    }
    taken.push(own);
    label(text, x, y, anchor, "tick")
}

/// The mark of a group; hollow where doubtful.
fn mark(colour: usize, x: f64, y: f64, doubtful: bool) -> Markup {
    let shape = match colour % COLOURS {
        0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        1 => "m-3.5-3.5h7v7h-7z",
        2 => "m0-4.5l4.5 8h-9z",
        3 => "m0-5l4 5l-4 5l-4-5z",
        4 => "m0 4.5l4.5-8h-9z",
        5 => "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
        _ => "m-4.5-1.5h9v3h-9z",
    };
    let class = if doubtful { "mark doubtful" } else { "mark" };
    html! { path class=(class) d=(format!("M{} {}{shape}", short(x), short(y))) {} }
}

/// A coordinate, as exact as a screen can show.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_string).unwrap_or(text)
}

#[cfg(test)]
mod tests;
