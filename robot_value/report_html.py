"""The skeleton of a self-contained page: no script, no request to anywhere, readable on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5d6675; --line: #dfe3e9; --page: #fbfbfa; --card: #ffffff;
  --accent: #2f6fb0; --warn: #9a5b00; --warnpage: #fff5e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa4b2; --line: #2f3744; --page: #14181e;
  --card: #1b2028; --accent: #7db4ea; --warn: #f0c070; --warnpage: #2b2416; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.1rem; font-weight: 600; color: var(--soft); margin: 0 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.headline { font-size: clamp(1.35rem, 3.4vw, 1.9rem); line-height: 1.28; font-weight: 650; max-width: 50rem; }
.soft, figcaption, small { color: var(--soft); font-size: .9rem; }
.warnings { background: var(--warnpage); color: var(--warn); border-radius: .5rem; padding: .6rem 1rem; margin: 1rem 0 }
.warnings p { margin: .15rem 0; max-width: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .7rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { white-space: nowrap; font-size: .82rem; color: var(--soft); font-weight: 600; vertical-align: bottom; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.chosen td { background: color-mix(in srgb, var(--accent) 9%, transparent); }
tr.chosen td:first-child { box-shadow: inset 3px 0 var(--accent); padding-left: .7rem; }
td small { display: block; line-height: 1.35; }
td.rate, th.rate { width: 13rem; min-width: 8rem; }
td.rate svg { display: block; width: 100%; height: 1.5rem; }
figure { margin: .8rem 0; padding: .9rem; background: var(--card); border: 1px solid var(--line); border-radius: .6rem }
figure svg { display: block; width: 100%; height: auto; max-width: 46rem; margin: 0 auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem; }
.pair figure { margin: 0; }
figure.narrow svg { max-width: 27rem; }
video { width: 100%; display: block; border-radius: .35rem; background: #000; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 0 .8rem; font-size: .9rem; margin-bottom: .35rem; }
.good { color: #2a8f62; } .bad { color: #cf4a60; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) { main { padding: 1.2rem .9rem 3rem; } .optional { display: none; }
  td:first-child { min-width: 9rem; } td.rate, th.rate { width: 5.5rem; min-width: 5.5rem; white-space: normal; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""
FIXED = 'vector-effect="non-scaling-stroke"'  # lines keep their width while the cell stretches the drawing


def page(title: str, body: Sequence[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what belongs to it; nothing where there is nothing."""
    found = [part for part in parts if part]
    return "\n".join([f"<h2>{escape(title)}</h2>", *found]) if found else ""


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def figure(svg: str, caption: str = "", kind: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}">{svg}{below}</figure>'


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    """Term and value; values are shown as code."""
    rows = "".join(f"<dt>{escape(term)}</dt><dd><code>{escape(value)}</code></dd>" for term, value in pairs)
    return f"<dl>{rows}</dl>"


def whisker(rate: float, low: float, high: float, reference: float, chosen: bool) -> str:
    """A success rate with its interval on a line from 0 to 1; the thin mark is the plain policy."""
    colour = "var(--accent)" if chosen else "currentColor"
    x, left, right, mark = (f"{100 * value:.2f}" for value in (rate, low, high, reference))
    line = f'stroke="{colour}" stroke-width="4" {FIXED}'
    return (
        '<svg viewBox="-3 0 106 14" preserveAspectRatio="none" aria-hidden="true">'
        f'<line x1="0" x2="100" y1="7" y2="7" stroke="var(--line)" {FIXED}/>'
        f'<line x1="{mark}" x2="{mark}" y1="1" y2="13" stroke="var(--soft)" stroke-dasharray="3 2" {FIXED}/>'
        f'<line x1="{left}" x2="{right}" y1="7" y2="7" {line} opacity=".45"/>'
        f'<line x1="{x}" x2="{x}" y1="3" y2="11" {line}/></svg>'
    )
