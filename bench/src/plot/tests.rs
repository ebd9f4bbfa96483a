use roxmltree::{Document, Node};

use super::*;

fn curve(group: &str, colour: usize, what: &str, points: &[(f64, f64)]) -> Curve {
    Curve {
        group: group.into(),
        colour,
        what: what.into(),
        points: points.iter().map(|&(x, y)| Point::new(x, y)).collect(),
        ..Curve::default()
    }
}

fn percentiles(curves: Vec<Curve>) -> Plot {
    Plot {
        slug: "percentiles".into(),
        title: "Latency by percentile".into(),
        note: String::new(),
        x: Axis::new("percentile", Quantity::Percentile),
        y: Axis::new("latency, log scale", Quantity::LatencyNs),
        curves,
    }
}

fn rising(from_ns: f64, nines: i32) -> Vec<(f64, f64)> {
    (0..=nines * 10).map(|step| 10f64.powf(step as f64 / 10.0)).map(|x| (x, from_ns * x.powf(0.4))).collect()
}

fn text_boxes(document: &Document) -> Vec<(String, TextBox)> {
    let number = |node: &Node, name| node.attribute(name).unwrap_or("0").parse::<f64>().unwrap();
    let texts =
        document.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")));
    texts
        .map(|node| {
            let anchor = match node.attribute("text-anchor") {
                Some("middle") => Anchor::Middle,
                Some("end") => Anchor::End,
                _ => Anchor::Start,
            };
            let text: String =
                node.children().filter(|child| child.is_text()).filter_map(|child| child.text()).collect();
            let own = TextBox::of(
                &text,
                number(&node, "x"),
                number(&node, "y"),
                number(&node, "font-size"),
                anchor,
            );
            (text, own)
        })
        .collect()
}

/// What holds of every plot: it is XML, has no bad number, and its text lies inside and apart.
fn check(svg: &str) {
    let document = Document::parse(svg).expect("it is XML");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let view: Vec<f64> = document
        .root_element()
        .attribute("viewBox")
        .unwrap()
        .split(' ')
        .map(|n| n.parse().unwrap())
        .collect();
    let boxes = text_boxes(&document);
    for (index, (text, own)) in boxes.iter().enumerate() {
        assert!(
            own.x >= 0.0
                && own.y >= 0.0
                && own.x + own.width <= view[2] + 0.5
                && own.y + own.height <= view[3],
            "'{text}' is outside: {own:?} of {view:?}"
        );
        for (other_text, other) in &boxes[..index] {
            assert!(!own.meets(other, 0.0), "'{text}' covers '{other_text}'");
        }
    }
}

fn series(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).unwrap();
    document.descendants().filter_map(|node| node.attribute("data-series")).map(str::to_string).collect()
}

#[test]
fn every_curve_is_there_and_no_text_overlaps() {
    let plot = percentiles(vec![
        curve("fulmar", 0, "", &rising(20e3, 5)),
        curve("rabbitmq", 1, "", &rising(150e3, 5)),
        curve("lavinmq 2.4 with a long list of options", 2, "", &rising(90e3, 4)),
    ]);
    let svg = plot.file().unwrap();
    check(&svg);
    assert_eq!(series(&svg), ["fulmar", "rabbitmq", "lavinmq 2.4 with a long list of options"]);
    for tick in ["50 %", "99.9 %", "99.999 %", "100 µs", "1 ms"] {
        assert!(svg.contains(&format!(">{tick}<")), "no tick {tick}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let name = "<script>alert(\"1\")</script>&'\u{0}\u{202e}".repeat(4);
    let mut plot = percentiles(vec![curve(&name, 9, "<b>", &rising(1e3, 3))]);
    plot.title = name.clone();
    let svg = plot.file().unwrap();
    check(&svg);
    assert!(!svg.contains("<script") && !svg.contains("<b>"), "{svg}");
    assert_eq!(series(&svg), [format!("{} <b>", clean(&name))]);
}

#[test]
fn bad_points_are_left_out() {
    let points = [(1.0, f64::NAN), (f64::INFINITY, 1e3), (2.0, 0.0), (3.0, 1e4), (10.0, 2e4), (0.0, 1e3)];
    let svg = percentiles(vec![curve("one", 0, "", &points), curve("nothing", 1, "", &[(1.0, -1.0)])])
        .file()
        .unwrap();
    check(&svg);
    assert!(!svg.contains(">nothing<"), "a legend without a curve");
}

#[test]
fn nothing_to_show_is_no_plot() {
    let plot = percentiles(vec![curve("one", 0, "", &[(1.0, f64::NAN)])]);
    assert!(plot.is_empty() && plot.file().is_none() && plot.inline().is_none());
}

#[test]
fn extreme_and_lonely_values_make_sound_plots() {
    for quantity in
        [Quantity::LatencyNs, Quantity::Rate, Quantity::RateLog, Quantity::Memory, Quantity::SizeLog]
    {
        for values in
            [vec![(1.0, 1.0)], vec![(0.0, 0.0)], vec![(1.0, 1.0), (2.0, 1e15)], vec![(1.0, 7e7), (2.0, 7e7)]]
        {
            let mut plot =
                percentiles(vec![curve("one", 0, "p99", &values), curve("two", 1, "p50", &values)]);
            plot.x = Axis::new("time (s)", Quantity::Seconds);
            plot.y = Axis::new("value", quantity);
            if let Some(svg) = plot.file() {
                check(&svg);
            }
        }
    }
}

#[test]
fn spreads_are_bands_or_whiskers() {
    let mut plain = curve("one", 0, "", &rising(1e3, 3));
    for point in &mut plain.points {
        point.spread = Some((point.y / 2.0, point.y * 2.0));
    }
    let marked = Curve { marked: true, ..plain.clone() };
    let count = |svg: &str, class: &str| svg.matches(&format!("class=\"{class}\"")).count();
    let band = percentiles(vec![plain.clone()]).file().unwrap();
    assert_eq!(count(&band, "band"), 1);
    let whiskers = percentiles(vec![marked]).file().unwrap();
    assert_eq!(count(&whiskers, "band"), 0);
    assert!(count(&whiskers, "solid") > plain.points.len());
}

#[test]
fn many_groups_have_a_legend_of_several_rows() {
    let curves = (0..12).flat_map(|n| {
        ["p50", "p99", "max"]
            .map(|what| curve(&format!("broker number {n}"), n, what, &rising(1e3 * (n + 1) as f64, 2)))
    });
    let svg = percentiles(curves.collect()).file().unwrap();
    check(&svg);
    assert_eq!(series(&svg).len(), 36);
    assert_eq!(svg.matches(">p99<").count(), 1);
}

#[test]
fn a_plot_in_a_page_has_no_style_of_its_own() {
    let plot = percentiles(vec![curve("one", 0, "", &rising(1e3, 3))]);
    assert!(!plot.inline().unwrap().0.contains("<style"));
    assert!(plot.file().unwrap().contains("prefers-color-scheme"));
}
