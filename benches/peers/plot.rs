//! One picture for each measure: the median of each target as a bar, with its range. Bars begin at zero; where the medians differ so
//! much that the small ones could not be seen, the scale is logarithmic and begins below the least of them, and the title says so.

use std::path::Path;

use actix_cluster_benches::Failure;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::Measure;
use crate::record::Records;
use crate::stats::{Spread, figure};
use crate::table::{crash_times, storm_failures};
use crate::targets::TARGETS;

/// A picture: its file, what it shows, and the bars.
struct Picture {
    file: &'static str,
    title: &'static str,
    bars: Vec<Bar>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Linear,
    Logarithmic,
}

impl Axis {
    fn of(bars: &[Bar]) -> Self {
        let medians = || bars.iter().map(|bar| bar.spread.median).filter(|median| *median > 0.0);
        let most = medians().fold(f64::MIN_POSITIVE, f64::max);
        let least = medians().fold(most, f64::min);
        if most > RATIO_MAX * least {
            Self::Logarithmic
        } else {
            Self::Linear
        }
    }
}

struct Bar {
    name: String,
    spread: Spread,
    is_ours: bool,
}

/// Draws everything there is data for.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(folder: &Path, records: &Records) -> Result<(), Failure> {
    for picture in pictures(records) {
        if !picture.bars.is_empty() {
            draw(&folder.join(picture.file), &picture).map_err(|error| format!("{}: {error}", picture.file))?;
        }
    }
    Ok(())
}

fn pictures(records: &Records) -> Vec<Picture> {
    let at = |measure, variant: &'static str, path: &'static str, scale: f64| {
        bars(move |target| {
            let results = records.results(measure, target, variant);
            Spread::of(
                results
                    .iter()
                    .filter_map(|result| result.pointer(path)?.as_f64())
                    .map(|it| it * scale),
            )
        })
    };
    vec![
        Picture {
            file: "A-crash.svg",
            title: "A: ms from the kill of the only worker to its successor's answer (less is better)",
            bars: bars(|target| Spread::of(crash_times(&records.results(Measure::Crash, target, "")))),
        },
        Picture {
            file: "B-storm.svg",
            title: "B: failed requests a kill, 4 workers, a kill every 200 ms (less is better)",
            bars: bars(|target| Spread::of(storm_failures(&records.results(Measure::Storm, target, "")))),
        },
        Picture {
            file: "C-reload.svg",
            title: "C: ms for a rolling reload of 4 workers under load (less is better)",
            bars: at(Measure::Reload, "new", "/reload_ms", 1.0),
        },
        Picture {
            file: "D-keep-alive.svg",
            title: "D: answers a second, 2 workers, 64 kept connections (more is better)",
            bars: at(Measure::Throughput, "keep-alive", "/per_second", 1.0),
        },
        Picture {
            file: "D-new.svg",
            title: "D: answers a second, 2 workers, a new connection each (more is better)",
            bars: at(Measure::Throughput, "new", "/per_second", 1.0),
        },
        Picture {
            file: "D-open.svg",
            title: "D: p99 in ms at 1,000 requests a second (less is better)",
            bars: at(Measure::Throughput, "open", "/p99_us", 1e-3),
        },
        Picture {
            file: "E-start.svg",
            title: "E: ms until 200 workers are ready (less is better)",
            bars: at(Measure::Idle, "200", "/start_ms", 1.0),
        },
        Picture {
            file: "E-master.svg",
            title: "E: resident MiB of the master of 200 workers (less is better)",
            bars: at(Measure::Idle, "200", "/master_rss_kib", 1.0 / 1024.0),
        },
        Picture {
            file: "F-messages.svg",
            title: "F: messages a second, one way, 64 bytes (more is better)",
            bars: messages(records, "per_second", "one way"),
        },
        Picture {
            file: "F-round-trips.svg",
            title: "F: µs of a round trip, 64 bytes, median (less is better)",
            bars: messages(records, "p50_us", "round trip"),
        },
    ]
}

fn bars(spread: impl Fn(&str) -> Option<Spread>) -> Vec<Bar> {
    let of = |target: &crate::targets::Target| {
        Some(Bar {
            name: target.name.to_owned(),
            spread: spread(target.id)?,
            is_ours: target.id.starts_with("ours"),
        })
    };
    TARGETS.iter().filter_map(of).collect()
}

/// The rows of F of the smallest size.
fn messages(records: &Records, figure: &str, kind: &str) -> Vec<Bar> {
    let mut bars = Vec::new();
    for target in ["ours", "node-rr"] {
        let results = records.results(Measure::Ipc, target, "");
        let names = results.first().and_then(|result| result.as_object());
        for name in names.into_iter().flat_map(|names| names.keys()) {
            let spread = Spread::of(results.iter().filter_map(|result| result[name][figure].as_f64()));
            let Some(spread) = spread.filter(|_| name.contains(kind) && name.ends_with("64 B")) else {
                continue;
            };
            bars.push(Bar {
                name: name.trim_end_matches(", 64 B").to_owned(),
                spread,
                is_ours: name.starts_with("ours"),
            });
        }
    }
    bars
}

fn draw(path: &Path, picture: &Picture) -> Result<(), Box<dyn std::error::Error>> {
    let height = TOP + ROW * i32::try_from(picture.bars.len())? + BOTTOM;
    let area = SVGBackend::new(path, (WIDTH.cast_unsigned(), height.cast_unsigned())).into_drawing_area();
    area.fill(&WHITE)?;
    let axis = Axis::of(&picture.bars);
    let title = match axis {
        Axis::Linear => picture.title.to_owned(),
        Axis::Logarithmic => format!("{}, logarithmic scale", picture.title),
    };
    area.draw(&Text::new(title, (12, 12), font(17)))?;
    let scale = Scale::of(axis, &picture.bars);
    let bottom = height - BOTTOM;
    for mark in scale.marks() {
        let x = scale.x(mark);
        area.draw(&PathElement::new([(x, TOP - 6), (x, bottom)], RGBColor(224, 224, 224)))?;
        area.draw(&Text::new(figure(mark), (x - 10, bottom + 6), font(13)))?;
    }
    for (bar, at) in picture.bars.iter().zip(0..) {
        row(&area, bar, TOP + ROW * at, &scale)?;
    }
    area.present()?;
    Ok(())
}

fn row(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    bar: &Bar,
    top: i32,
    scale: &Scale,
) -> Result<(), Box<dyn std::error::Error>> {
    let colour = if bar.is_ours { OURS } else { THEIRS };
    let (middle, end) = (top + ROW / 2, scale.x(bar.spread.median));
    area.draw(&Text::new(bar.name.as_str(), (12, middle - 7), font(14)))?;
    area.draw(&Rectangle::new(
        [(LEFT, top + 4), (end.max(LEFT + 1), top + ROW - 4)],
        colour.filled(),
    ))?;
    let range = [(scale.x(bar.spread.min), middle), (scale.x(bar.spread.max), middle)];
    area.draw(&PathElement::new(range, BLACK.stroke_width(2)))?;
    let beside = end.max(range[1].0) + 6;
    area.draw(&Text::new(figure(bar.spread.median), (beside, middle - 7), font(14)))?;
    Ok(())
}

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

/// From one edge to the other: zero and a round figure, or whole powers of ten around all figures.
struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Scale {
    fn of(axis: Axis, bars: &[Bar]) -> Self {
        let figures = || bars.iter().flat_map(|bar| [bar.spread.median, bar.spread.max]);
        let most = figures().fold(f64::MIN_POSITIVE, f64::max);
        match axis {
            Axis::Linear => {
                let unit = 10_f64.powf(most.log10().floor());
                let (low, high) = (0.0, (most / unit).ceil() * unit);
                Self { axis, low, high }
            }
            Axis::Logarithmic => {
                let least = figures().filter(|figure| *figure > 0.0).fold(most, f64::min);
                // Not at the least itself: its bar would be none.
                let low = (least.log10() - 0.1).floor();
                let high = most.log10().ceil().max(low + 1.0);
                Self { axis, low, high }
            }
        }
    }

    /// Where lines are drawn.
    fn marks(&self) -> Vec<f64> {
        match self.axis {
            Axis::Linear => (0..=4).map(|part| self.high * f64::from(part) / 4.0).collect(),
            Axis::Logarithmic => {
                let powers = std::iter::successors(Some(self.low), |power| Some(power + 1.0));
                powers
                    .take_while(|power| *power <= self.high)
                    .map(|power| 10_f64.powf(power))
                    .collect()
            }
        }
    }

    /// Zero, and what is too small, is at the left edge.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a place on a picture of some hundred pixels"
    )]
    fn x(&self, figure: f64) -> i32 {
        let figure = match self.axis {
            Axis::Linear => figure,
            Axis::Logarithmic => figure.max(f64::MIN_POSITIVE).log10(),
        };
        let part = (figure - self.low) / (self.high - self.low);
        LEFT + (part.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
    }
}

/// Beyond this the smallest bar would be a dozen pixels long.
const RATIO_MAX: f64 = 50.0;
const WIDTH: i32 = 960;
const LEFT: i32 = 290;
const RIGHT: i32 = 870;
const TOP: i32 = 48;
const ROW: i32 = 26;
const BOTTOM: i32 = 34;
const OURS: RGBColor = RGBColor(214, 96, 32);
const THEIRS: RGBColor = RGBColor(120, 144, 176);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_room_for_the_least_and_the_most_and_zero_is_at_its_edge() {
        let bar = |median| Bar {
            name: String::new(),
            spread: Spread::of([median]).expect("a figure"),
            is_ours: false,
        };
        let bars = [bar(0.0), bar(0.7), bar(450.0)];
        assert_eq!(Axis::of(&bars), Axis::Logarithmic);
        assert_eq!(Axis::of(&[bar(0.0), bar(1.0), bar(50.0)]), Axis::Linear);
        let least = [bar(0.1), bar(450.0)];
        assert!(
            Scale::of(Axis::Logarithmic, &least).x(0.1) > LEFT,
            "the least has a bar"
        );
        let scale = Scale::of(Axis::Logarithmic, &bars);
        assert_eq!((scale.low, scale.high, scale.marks().len()), (-1.0, 3.0, 5));
        assert_eq!((scale.x(0.0), scale.x(0.1), scale.x(1000.0)), (LEFT, LEFT, RIGHT));
        let scale = Scale::of(Axis::Linear, &bars);
        assert_eq!(scale.marks(), [0.0, 125.0, 250.0, 375.0, 500.0]);
        assert_eq!((scale.x(0.0), scale.x(500.0)), (LEFT, RIGHT));
    }
}
