//! Plots as SVG: a panel for each figure, a line for each contender, figures over numbers of connections.
//!
//! Colours are legible on light and on dark ground, and each line has its own marks, so that no colour has to be seen.

/// One plot of the page.
pub struct Panel {
    title: String,
    /// At each place of the horizontal axis: its label and a value for each contender.
    places: Vec<(String, Vec<Option<f64>>)>,
}

/// A panel's size with its margins, and those.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 40.0;
/// The legend above all panels: its lines, and a place's width in it.
const LEGEND: f64 = 24.0;
const NAME: f64 = 140.0;
const NAMES_A_LINE: usize = 6;
/// Of medium lightness, told apart with any colour vision (Okabe and Ito's, without yellow).
const COLOURS: [&str; 7] = ["#808080", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#222}.grid{stroke:#8884;stroke-width:1}\
    .title{font-weight:600}.ground{fill:#fff}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.ground{fill:#16181d}}";

impl Panel {
    /// A panel of what `values` gives for each of these numbers of connections; those of which it gives nothing are left out.
    pub fn new(title: &str, unit: &str, counts: &[usize], values: impl Fn(usize) -> Option<Vec<Option<f64>>>) -> Panel {
        let places = counts.iter().filter_map(|count| Some((count.to_string(), values(*count)?))).collect();
        Panel { title: format!("{title}, {unit}"), places }
    }

    /// From 0 to a round number above all values.
    fn top(&self) -> f64 {
        let values = self.places.iter().flat_map(|(_, values)| values).flatten();
        let most = values.copied().fold(f64::MIN_POSITIVE, f64::max);
        let step = 10f64.powf(most.log10().floor());
        [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().map(|times| times * step).find(|top| *top >= most).unwrap_or(most)
    }

    fn x(&self, place: usize) -> f64 {
        let gaps = self.places.len().saturating_sub(1).max(1) as f64;
        LEFT + 20.0 + place as f64 / gaps * (WIDTH - LEFT - RIGHT - 40.0)
    }

    fn draw(&self, out: &mut String) {
        let top = self.top();
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        text(out, (LEFT, 22.0), "start", "title", &self.title);
        for part in 0..=4 {
            let value = top * f64::from(part) / 4.0;
            let (at, end) = (y(value), WIDTH - RIGHT);
            out.push_str(&format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\n"));
            text(out, (LEFT - 6.0, at + 4.0), "end", "", &label(value));
        }
        for (place, (count, _)) in self.places.iter().enumerate() {
            text(out, (self.x(place), HEIGHT - BOTTOM + 18.0), "middle", "", count);
        }
        text(out, (WIDTH / 2.0 + 20.0, HEIGHT - 6.0), "middle", "", "connections at once");
        let contenders = self.places.first().map_or(0, |(_, values)| values.len());
        // The first lines lie on top: plain TCP's and hive's.
        for of in (0..contenders).rev() {
            let points = self.places.iter().enumerate();
            let points = points.filter_map(|(place, (_, values))| Some((self.x(place), y(values[of]?))));
            line(out, of, &points.collect::<Vec<_>>());
        }
    }
}

/// The page: a legend, and the panels two abreast.
pub fn draw(names: &[&str], panels: &[Panel]) -> String {
    let legend = LEGEND * names.len().div_ceil(NAMES_A_LINE) as f64 + 8.0;
    let (width, height) = (2.0 * WIDTH, legend + HEIGHT * panels.len().div_ceil(2) as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>hive beside plain TCP and its peers</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    for (of, name) in names.iter().enumerate() {
        let at = ((of % NAMES_A_LINE) as f64 * NAME + 16.0, LEGEND * (of / NAMES_A_LINE) as f64 + 18.0);
        line(&mut out, of, &[at, (at.0 + 12.0, at.1), (at.0 + 24.0, at.1)]);
        text(&mut out, (at.0 + 32.0, at.1 + 4.0), "start", "", name);
    }
    for (at, panel) in panels.iter().enumerate() {
        let (x, y) = ((at % 2) as f64 * WIDTH, legend + (at / 2) as f64 * HEIGHT);
        out.push_str(&format!("<g transform=\"translate({x} {y})\">\n"));
        panel.draw(&mut out);
        out.push_str("</g>\n");
    }
    out + "</svg>\n"
}

/// A contender's line with its marks.
fn line(out: &mut String, of: usize, points: &[(f64, f64)]) {
    let colour = COLOURS[of % COLOURS.len()];
    // hive's is the one that is looked for.
    let width = if of == 1 { 3 } else { 1 };
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let dashes = if of == 0 { " stroke-dasharray=\"5 4\"" } else { "" };
    out.push_str(&format!(
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dashes} points=\"{}\"/>\n",
        path.join(" ")
    ));
    for (x, y) in points {
        out.push_str(&mark(of, (*x, *y), colour));
    }
}

/// A circle, a square, a diamond or a triangle.
fn mark(of: usize, (x, y): (f64, f64), colour: &str) -> String {
    let corners: &[(f64, f64)] = match of % 4 {
        1 => return format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\n"),
        2 => &[(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)],
        3 => &[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)],
        _ => &[(0.0, -4.5), (4.5, 3.5), (-4.5, 3.5)],
    };
    let corners: Vec<String> = corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
    format!("<polygon fill=\"{colour}\" points=\"{}\"/>\n", corners.join(" "))
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    out.push_str(&format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>\n"
    ));
}

fn label(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
