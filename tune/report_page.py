"""The frame of a report: one HTML page that needs no network and no file beside it, light or dark as the reader has it.

Reads well on a phone and in print, and without scripts: a few lines of them sort tables. Everything that comes from
data is escaped by Jinja. Knows nothing of searches: sections come as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from tune.palette import variables
from tune.report_svg import Picture, inline_svg

CSS = """
:root { color-scheme: light dark; --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; font: 1rem/1.6 var(--sans);
  color: var(--text); background: var(--ground); -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; } ul { padding-left: 1.2rem; max-width: 46rem; } a { color: var(--mark); }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
nav { margin: 1.2rem 0; font-size: .9rem; display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
.verdict { background: var(--card); border-left: .3rem solid var(--rest); border-radius: .4rem; padding: .9rem 1.2rem;
  margin: 1rem 0; }
.verdict.good { border-color: var(--winner); } .verdict.bad { border-color: var(--bad); }
.verdict strong { font-size: 1.1rem; } .verdict p { max-width: none; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tile { background: var(--card); border-radius: .4rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: .85rem; line-height: 1.4; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th.left, td.left { text-align: left; } td.text { white-space: normal; min-width: 18rem; overflow-wrap: anywhere; }
tr.winner td { font-weight: 600; } tr.winner td:first-child { color: var(--winner); }
tr.own td:first-child { color: var(--own); }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--mark); }
th[aria-sort=ascending] button::after { content: " ↑"; } th[aria-sort=descending] button::after { content: " ↓"; }
figure { margin: 1.2rem 0 2rem; } figcaption { max-width: 46rem; margin-top: .4rem; }
.plot { overflow-x: auto; } .plot svg { display: block; width: min(100%, calc(var(--width) * 1.1)); height: auto;
  min-width: calc(var(--width) * .62); fill: var(--text); stroke-linejoin: round; stroke-linecap: butt; }
.paper svg { LIGHT background: var(--ground); border-radius: .4rem; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: .75rem; }
.answer { background: var(--card); border-radius: .4rem; padding: .7rem .9rem; font-size: .92rem;
  overflow-wrap: anywhere; }
.answer h4 { margin: 0; font-size: .85rem; color: var(--soft); } .answer p { white-space: pre-wrap; margin: .3rem 0; }
span.good { color: var(--winner); } span.bad, p.bad { color: var(--bad); }
pre, code { font: .88rem/1.5 ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border-radius: .4rem; padding: .8rem 1rem; overflow-x: auto; }
td code { overflow-wrap: anywhere; white-space: normal; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
footer { margin-top: 4rem; border-top: 1px solid var(--line); padding-top: .8rem; }
@media (max-width: 40rem) { body { padding: 1.2rem 1rem 3rem; } h1 { font-size: 1.35rem; } }
@media print { :root { LIGHT } body { max-width: none; padding: 0; font-size: 10pt; } nav, th button::after
  { display: none; } figure, .tile, .verdict, .answer, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide, .plot { overflow: visible; } table { font-size: 7.5pt; } th, td { white-space: normal; padding: .2rem .35rem; }
  td:first-child { white-space: nowrap; } pre { white-space: pre-wrap; }
  .plot svg { min-width: 0; width: min(100%, 14cm); } }
"""

SORT = """
for (const table of document.querySelectorAll("table.sorts")) table.querySelectorAll("th").forEach((th, i) => {
  const button = document.createElement("button");
  button.textContent = th.textContent; th.replaceChildren(button);
  button.addEventListener("click", () => {
    const way = th.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
    const value = row => row.cells[i].textContent.trim(), body = table.tBodies[0];
    const order = (a, b) => a === b ? 0 : a === "–" ? way : b === "–" ? -way
      : isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    body.append(...[...body.rows].sort((a, b) => way * order(value(a), value(b))));
  });
});
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:;
  form-action 'none'">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<header><h1>{{ title }}</h1><p class="soft">{{ lead }}</p></header>
<nav aria-label="Sections">
{%- for section in sections if section.listed %}<a href="#{{ section.id }}">{{ section.title }}</a>
{% endfor %}</nav>
<main>
{%- for section in sections %}
<section id="{{ section.id }}" aria-labelledby="{{ section.id }}-title">
<h2 id="{{ section.id }}-title">{{ section.title }}</h2>
{{ section.body }}
</section>
{%- endfor %}
</main>
<footer class="soft">{{ foot }}</footer>
<script>{{ sort }}</script>
</body>
</html>
"""

TABLE = """<div class="wide" tabindex="0"><table{% if sorts %} class="sorts"{% endif %}>
{%- if caption %}<caption>{{ caption }}</caption>{% endif %}
<thead><tr>{% for c in columns %}<th scope="col"{% if c.left %} class="left"{% endif %}>{{ c.title }}</th>{% endfor %}
</tr></thead>
<tbody>
{%- for row in rows %}
<tr{% if row.mark %} class="{{ row.mark }}"{% endif %}>
{%- for c, cell in row.cells %}<td{% if c.left %} class="left{{ " text" if c.text }}"{% endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{%- endfor %}
</tbody></table></div>"""

FIGURE = """<figure id="picture-{{ picture.name }}"{% if picture.paper %} class="paper"{% endif %}>
<div class="plot" tabindex="0">{{ svg }}</div>
<figcaption>{{ picture.caption }}</figcaption></figure>"""

TILES = """<div class="tiles">
{%- for name, value, beside in shown %}
<div class="tile"><span>{{ name }}</span><b>{{ value }}</b><span>{{ beside }}</span></div>
{%- endfor %}
</div>"""

_environment = Environment(autoescape=True, undefined=StrictUndefined)


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading. `body` is HTML already; one that is not `listed` is not in the contents."""

    id: str
    title: str
    body: Markup
    listed: bool = True


@dataclass(frozen=True)
class Column:
    """A column of a table: numbers stand on the right, words on the `left`; long `text` may break."""

    title: str
    left: bool = False
    text: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table; `mark` sets it off as winner or own."""

    cells: Sequence[str | Markup]
    mark: str = ""


def rendered(template: str, /, **values: Any) -> Markup:
    """A template of HTML with values put in, every plain text among them escaped."""
    return Markup(_compiled(template).render(**values))  # noqa: S704 - escaped by the environment


@cache
def _compiled(template: str) -> Template:
    return _environment.from_string(template)


def joined(*parts: Markup) -> Markup:
    """Pieces of HTML one after another."""
    return Markup("\n").join(parts)


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph of plain text; `kind` is its class."""
    return rendered('<p{% if kind %} class="{{ kind }}"{% endif %}>{{ text }}</p>', text=text, kind=kind)


def table(columns: Sequence[Column], rows: Sequence[Row], caption: str = "", *, sorts: bool = False) -> Markup:
    """A table; one that `sorts` does so by a column whose title is clicked."""
    paired = [{"mark": row.mark, "cells": list(zip(columns, row.cells, strict=True))} for row in rows]
    return rendered(TABLE, columns=columns, rows=paired, caption=caption, sorts=sorts)


def folded(title: str, body: Markup) -> Markup:
    """What is shown only to who asks for it."""
    return rendered("<details><summary>{{ title }}</summary>{{ body }}</details>", title=title, body=body)


def tiles(shown: Sequence[tuple[str, str, str]]) -> Markup:
    """Figures that stand out, each with what it is and what is to be said beside it."""
    return rendered(TILES, shown=shown)


def picture_html(picture: Picture) -> Markup:
    """A picture with its caption."""
    return rendered(FIGURE, picture=picture, svg=inline_svg(picture))


def page(title: str, lead: str, sections: Sequence[Section], foot: str = "") -> str:
    """The whole page. `lead` stands below its title, `foot` at its end."""
    css = CSS.replace("LIGHT", variables(dark=False)).replace("DARK", variables(dark=True))
    own = {"css": Markup(css), "sort": Markup(SORT)}  # noqa: S704 - both stand above
    return str(rendered(PAGE, title=title, lead=lead, sections=sections, foot=foot, **own))
