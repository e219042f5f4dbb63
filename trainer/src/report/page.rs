//! The page around the plots.

use std::fmt::Write;

use super::Figure;
use super::plot::Role;

/// Puts the page together; all texts but the figures are still to be escaped.
pub(super) fn render(
    title: &str,
    subtitle: &str,
    tiles: &[(&str, String)],
    figures: &[Figure],
    options: &[(String, String)],
) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\n<style>{}</style></head>\n\
         <body><main>\n<header><h1>{title}</h1><p>{}</p></header>\n<section class=\"tiles\">",
        style(),
        escape(subtitle),
        title = escape(title),
    );
    for (name, value) in tiles {
        _ = write!(out, "<div><b>{}</b><span>{}</span></div>", escape(value), escape(name));
    }
    out += "</section>\n<section class=\"figures\">\n";
    if figures.is_empty() {
        out += "<p>No steps were taken yet.</p>";
    }
    for figure in figures {
        out += &figure.html();
        out.push('\n');
    }
    out += "</section>\n<section class=\"options\"><h2>Options</h2><table><tbody>\n";
    for (name, value) in options {
        _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    out + "</tbody></table></section>\n</main></body></html>\n"
}

/// The style sheet: the layout, and for each role its variable in both themes.
fn style() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    let mut roles = String::new();
    for role in Role::ALL {
        let hex = |colour: plotters::style::RGBColor| format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
        let (name, written) = (role.name(), hex(role.light()));
        _ = write!(light, "--{name}:{written};");
        _ = write!(dark, "--{name}:{};", hex(role.dark()));
        _ = writeln!(
            roles,
            "svg [fill=\"{written}\"]{{fill:var(--{name})}}svg [stroke=\"{written}\"]{{stroke:var(--{name})}}"
        );
    }
    format!(
        ":root{{--page:#f6f7f9;--card:#ffffff;--strong:#16191d;{light}}}\n\
         @media (prefers-color-scheme:dark){{:root{{--page:#111418;--card:#191d23;--strong:#f0f2f5;{dark}}}}}\n\
         {roles}{LAYOUT}"
    )
}

const LAYOUT: &str = "\
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 56px}
h1{margin:0;color:var(--strong);font-size:26px;letter-spacing:-.01em}
h2{margin:0 0 10px;color:var(--strong);font-size:17px}
header p{margin:4px 0 22px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:14px;margin-bottom:14px}
.tiles div,figure,.options{background:var(--card);border:1px solid var(--faint);border-radius:10px}
.tiles div{padding:12px 16px;display:flex;flex-direction:column}
.tiles b{white-space:nowrap;color:var(--strong);font-size:21px;font-variant-numeric:tabular-nums}
.tiles span{font-size:12.5px;line-height:1.35}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:14px}
figure{margin:0;padding:14px 12px 6px}
figcaption{padding:0 6px 4px;font-size:12.5px;min-height:48px}
figcaption b{display:block;color:var(--strong);font-size:15px}
figcaption span{display:inline-block;margin-right:14px}
figcaption i{display:inline-block;width:15px;margin-right:5px;vertical-align:middle}
svg{display:block;width:100%;height:auto}
svg text{font-family:inherit;font-variant-numeric:tabular-nums}
.options{margin-top:14px;padding:16px 20px;overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px;width:100%}
th,td{text-align:left;padding:5px 18px 5px 0;border-top:1px solid var(--faint);vertical-align:top}
th{font-weight:500;white-space:nowrap;width:1%}
td{color:var(--strong);font-family:ui-monospace,monospace;font-size:12.5px;overflow-wrap:anywhere}
";

/// `text` as HTML shows it, in elements and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            _ => out.push(c),
        }
    }
    out
}

/// A number in four digits at most; small and large ones with a power of ten.
pub(super) fn number(value: f64) -> String {
    // What is left of 0.3 − 0.2 − 0.1 on an axis.
    if value.abs() < 1e-12 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor();
    let text = if (-3.0..6.0).contains(&magnitude) {
        let decimals = (3.0 - magnitude).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.decimals$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    } else {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
    };
    text.replacen('-', "−", 1).replace("e-", "e−")
}

/// A span of time in the units of people.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min", whole / 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
