//! Markdown and HTML from templates. The HTML template's name makes minijinja escape every text that it inserts.

use super::Report;
use super::plots::{PlotError, Plots};
use crate::validate::thresholds::Check;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, context};

/// A report could not be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// A plot failed.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A template failed.
    #[error("report template: {0}")]
    Template(#[from] minijinja::Error),
}

/// The report as Markdown (tables as GitHub renders them).
///
/// # Errors
/// If the template and the report do not fit.
pub fn to_markdown(report: &Report) -> Result<String, RenderError> {
    let mut environment = environment()?;
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    Ok(environment
        .render_str(include_str!("report.md.jinja"), context! { report => Serde(report), demands => demands(report) })?)
}

/// The report as one page without any reference to the outside.
///
/// # Errors
/// If a plot cannot be drawn, or the template and the report do not fit.
pub fn to_html(report: &Report) -> Result<String, RenderError> {
    let mut environment = environment()?;
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let plots = Plots::draw(report)?;
    let svg = |svg: String| Value::from_safe_string(svg);
    let plots = context! {
        by_position => svg(plots.by_position),
        by_window => svg(plots.by_window),
        distribution => svg(plots.distribution),
        bits => svg(plots.bits),
        errors => plots.errors.map(svg),
    };
    Ok(environment
        .render_str(include_str!("report.html.jinja"), context! { report => Serde(report), plots, demands => demands(report) })?)
}

fn demands(report: &Report) -> Vec<String> {
    report.thresholds.iter().map(Check::demand).collect()
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_filter("number", number);
    environment.add_filter("percent", |x: f64| format!("{:.1} %", 100.0 * x));
    environment.add_filter("mib", |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20)));
    environment.add_filter("cell", cell);
    Ok(environment)
}

/// Four significant digits, or so.
fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if a < 1e-3 => format!("{x:.2e}"),
        a if a < 1.0 => format!("{x:.5}"),
        a if a < 1000.0 => format!("{x:.3}"),
        _ => format!("{x:.0}"),
    }
}

/// Any text as a cell of a Markdown table: on one line, with nothing that Markdown or HTML would take for its own.
fn cell(text: String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push('↵'),
            '\r' => {}
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '~' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_cell() {
        assert_eq!(cell("a|b\n<b>*x*</b>".into()), "a\\|b↵&lt;b&gt;\\*x\\*&lt;/b&gt;");
    }

    #[test]
    fn numbers_have_as_many_digits_as_they_need() {
        let shown: Vec<_> = [0.0, 0.00012, 0.07512, 9.678219, 123456.0].into_iter().map(number).collect();
        assert_eq!(shown, ["0", "1.20e-4", "0.07512", "9.678", "123456"]);
    }
}
