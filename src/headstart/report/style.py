"""Looks of the page: one style sheet, and the colours shared by tables, plots and pictures."""

from __future__ import annotations

# Okabe and Ito's palette, told apart under every common colour blindness; in the order in which names appear.
_PALETTE = ("#D55E00", "#CC79A7", "#0072B2", "#009E73", "#56B4E9", "#E69F00", "#8C8C8C", "#B8A800")

# Ends of the diverging scale of perturbations. Zero is transparent, so it is neutral on light and dark pages.
NEGATIVE = (44, 110, 190)
POSITIVE = (200, 70, 30)


def colour(index: int) -> str:
    """Colour of the method or group that appears at this place of the page; they repeat after eight."""
    return _PALETTE[index % len(_PALETTE)]


# Plotly writes colours into its SVG; those of text and grid are overruled here to follow the page's scheme.
CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1b1e23; --soft: #5d646e; --line: #e2e3df; --grid: #ebebe7;
  --mark: #f3f1e6; --good: #00714f; --bad: #b1440a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1b1e23; --ink: #e8e9ea; --soft: #a2a8b1; --line: #31353c; --grid: #2a2e34;
    --mark: #2a2a22; --good: #4fc79c; --bad: #f0854a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 3rem 1.5rem 2rem; }
h1 { font-size: clamp(1.45rem, 3.2vw, 2.1rem); line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .9rem;
  max-width: 32em; text-wrap: balance; }
h2 { font-size: 1.22rem; margin: 0 0 .35rem; letter-spacing: -.005em; }
h3 { font-size: .95rem; margin: 0; font-weight: 600; }
p { margin: 0 0 .8rem; max-width: 54em; }
.eyebrow { color: var(--soft); font-size: .85rem; margin-bottom: .6rem; }
.lede { font-size: 1.08rem; }
section { margin-top: 2.8rem; }
.read, .note { color: var(--soft); font-size: .92rem; }
.note { margin: .7rem 0 0; }
.warning { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem .8rem; margin: .5rem 0; max-width: 46em; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .5rem .65rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .82rem; vertical-align: bottom; padding-bottom: .4rem; }
thead tr:not(:last-child) th:not([rowspan]) { padding-bottom: 0; }
thead th[colspan] { text-align: center; }
tbody tr { border-top: 1px solid var(--line); }
thead tr:first-child th:first-child, tbody th, .text { text-align: left; }
.headline { background: var(--mark); }
.std { color: var(--soft); font-size: .84em; }
td strong { font-weight: 700; text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: 4px; }
.swatch { display: inline-block; width: .72em; height: .72em; border-radius: 50%; margin-right: .5em; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(245px, 1fr)); gap: .8rem; }
.panel { padding: .75rem .6rem .2rem; min-width: 0; }
.panel h3 { padding-left: .3rem; overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; color: var(--soft); font-size: .88rem; margin: 0 0 .7rem; }
.key svg { width: 34px; height: 8px; margin-right: .45em; vertical-align: middle; stroke: currentColor; }
.scale { display: inline-block; width: 120px; height: .7em; border: 1px solid var(--line); vertical-align: middle;
  margin: 0 .5em; background: linear-gradient(to right, rgb(NEGATIVE), transparent, rgb(POSITIVE)); }
.samples td, .samples th { padding: .22rem .3rem; text-align: center; }
tbody th[scope=row] { position: sticky; left: 0; background: var(--card); }
.samples th[scope=row] { text-align: left; font-weight: 400; font-size: .86rem; color: var(--soft);
  padding-left: .8rem; }
.samples th.method { font-weight: 600; color: var(--ink); font-size: .95rem; padding-top: .7rem; }
.samples tr { border-top: 0; }
.samples tbody { border-top: 1px solid var(--line); }
.samples img { display: block; margin: 0 auto; width: 72px; height: auto; border: 1px solid var(--line);
  border-radius: 3px; }
.samples img.pixels { image-rendering: pixelated; }
.samples .verdict { font-size: .82rem; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.samples td.empty { color: var(--soft); font-size: .86rem; text-align: left; }
footer { margin-top: 3.2rem; padding-top: 1.2rem; border-top: 1px solid var(--line); font-size: .88rem; }
dl { display: grid; grid-template-columns: minmax(7em, max-content) 1fr; gap: .15rem 1.2rem; margin: 0 0 1.4rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.js-plotly-plot .xtick text, .js-plotly-plot .ytick text { fill: var(--soft) !important; }
.js-plotly-plot .xtitle, .js-plotly-plot .ytitle { fill: var(--soft) !important; }
.js-plotly-plot .annotation-text, .js-plotly-plot .textpoint text { fill: var(--ink) !important; }
.js-plotly-plot .gridlayer path { stroke: var(--grid) !important; }
.js-plotly-plot .zerolinelayer path { stroke: var(--line) !important; }
.js-plotly-plot .shapelayer path { stroke: var(--ink) !important; }
@media (max-width: 640px) {
  main { padding: 1.6rem .9rem 1.5rem; }
  th, td { padding: .45rem .36rem; }
  table { font-size: .84rem; }
  thead th { font-size: .74rem; }
  .samples th[scope=row] { white-space: normal; max-width: 6.5em; line-height: 1.2; }
  .samples th.method { max-width: none; }
  .samples img { width: 56px; }
}
@media print { section { break-inside: avoid; } }
""".replace("NEGATIVE", ",".join(map(str, NEGATIVE))).replace("POSITIVE", ",".join(map(str, POSITIVE)))
