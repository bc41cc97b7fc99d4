"""A comparison as one HTML page that needs no network and no file beside it, light or dark as the reader has it.

A blind page shows the answers without names and scores, to be judged by a person; names, scores and the count of what
was picked lie under "Key" at its end. Its few lines of script count picks; without scripts the key is still readable.
"""

from collections.abc import Mapping

from jinja2 import Environment, StrictUndefined

from phasegpt.compare import Comparison, Difference

BAR_WIDTH = 160

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --text: #1c1d21; --soft: #5b5f6a; --ground: #fff; --card: #f4f5f7; --line: #cfd3da;
  --good: #14703c; --bad: #a3341f; --mark: #2a5db0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e9ec; --soft: #a4a9b4; --ground: #17181c; --card: #22242a; --line: #434751;
    --good: #63c98c; --bad: #f0917c; --mark: #86b1f5; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 84rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--ground); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 0 0 .6rem; }
.soft { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .45rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, td.text { text-align: left; }
td.text { white-space: normal; min-width: 6rem; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
.answer { background: var(--card); border-radius: .4rem; padding: .8rem; overflow-wrap: anywhere; }
.answer p { white-space: pre-wrap; margin: .3rem 0 0; }
fieldset { border: 0; padding: .8rem 0 0; margin: 0; } label { margin-right: 1.2rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg line { stroke: var(--line); } svg .bar { stroke: var(--mark); stroke-width: 3; } svg circle { fill: var(--mark); }
summary { cursor: pointer; font-size: 1.2rem; font-weight: 600; }
</style>
</head>
<body>
{%- macro names() %}
<p>A: <strong>{{ comparison.a.address }}</strong> on {{ comparison.a.base_model }}<br>
B: <strong>{{ comparison.b.address }}</strong> on {{ comparison.b.base_model }}</p>
{%- for note in comparison.notes %}
<p class="soft">{{ note }}</p>
{%- endfor %}
{%- endmacro %}
{%- macro metrics() %}
<div class="wide"><table id="metrics">
<thead><tr><th scope="col">metric</th><th scope="col">better</th><th scope="col">A</th><th scope="col">B</th>
<th scope="col">B − A</th><th scope="col">95 % interval</th><th scope="col">around zero</th>
<th scope="col">win rate of B</th><th scope="col">n</th><th scope="col">verdict</th></tr></thead>
<tbody>
{%- for d, bar in differences %}
<tr><td>{{ d.metric }}</td><td>{{ {"max": "higher", "min": "lower", none: "–"}[d.better] }}</td>
<td>{{ number(d.a) }}</td><td>{{ number(d.b) }}</td><td>{{ signed(d.mean) }}</td>
<td>{% if d.interval %}{{ signed(d.interval.low) }} to {{ signed(d.interval.high) }}{% else %}–{% endif %}</td>
<td>{% if bar %}<svg width="{{ width }}" height="20" viewBox="0 0 {{ width }} 20" role="img"
 aria-label="{{ d.metric }}: {{ signed(d.interval.low) }} to {{ signed(d.interval.high) }}">
<line x1="{{ width / 2 }}" x2="{{ width / 2 }}" y1="0" y2="20"/>
<line class="bar" x1="{{ bar.low }}" x2="{{ bar.high }}" y1="10" y2="10"/>
<circle cx="{{ bar.mean }}" cy="10" r="4"/></svg>{% endif %}</td>
<td>{% if d.wins %}{{ "%.2f"|format(d.wins.rate) }}{% else %}–{% endif %}</td>
<td>{% if d.interval %}{{ d.interval.n }}{% else %}–{% endif %}</td>
<td class="text {{ {"B is better": "good", "A is better": "bad"}.get(d.verdict, "") }}">{{ d.verdict }}</td></tr>
{%- endfor %}
</tbody></table></div>
<p class="soft">Each bar has its own scale and zero in its middle. A side is better where the whole interval lies on its
side of zero; intervals are not corrected for the number of metrics.</p>
{%- endmacro %}
{%- macro scores(p) %}
<div class="wide"><table>
<thead><tr><th scope="col"></th>{% for name in p.scores %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for side in (0, 1) %}
<tr><td>{{ "AB"[side] }}</td>{% for pair in p.scores.values() %}<td>{{ number(pair[side]) }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- endmacro %}
<h1>{{ title }}</h1>
{%- if not blind %}{{ names() }}{% endif %}
<p class="soft">{{ comparison.prompts|length }} prompts of the {{ comparison.half }} half, greedy answers.</p>
{%- if blind %}
<p>Each prompt has two answers, one of each model, in an order drawn anew for every prompt. Pick the better one, then
open the key at the end.</p>
{%- else %}
<h2>Metrics</h2>{{ metrics() }}
{%- endif %}
<h2>Answers</h2>
<form>
{%- for p in comparison.prompts %}
<article id="{{ p.id }}">
<h3>{{ p.prompt }}</h3>
<div class="sides">
{%- for side in (("a", "b") if p.first == "a" else ("b", "a")) %}
<section class="answer"><strong>{{ "Answer %d"|format(loop.index) if blind else side|upper }}</strong>
<p>{{ p[side] or "(nothing)" }}</p></section>
{%- endfor %}
</div>
{%- if blind %}
<fieldset><legend class="soft">Which is better?</legend>
<label><input type="radio" name="{{ p.id }}" value="{{ p.first }}"> answer 1</label>
<label><input type="radio" name="{{ p.id }}" value="{{ "b" if p.first == "a" else "a" }}"> answer 2</label>
<label><input type="radio" name="{{ p.id }}" value="tie"> a tie</label></fieldset>
{%- else %}{{ scores(p) }}{% endif %}
</article>
{%- endfor %}
</form>
{%- if blind %}
<details id="key"><summary>Key</summary>
{{ names() }}
<p id="picks"></p>
<div class="wide"><table>
<thead><tr><th scope="col">prompt</th><th scope="col">answer 1</th><th scope="col">answer 2</th></tr></thead>
<tbody>
{%- for p in comparison.prompts %}
<tr><td>{{ p.prompt }}</td><td>{{ p.first|upper }}</td><td>{{ "B" if p.first == "a" else "A" }}</td></tr>
{%- endfor %}
</tbody></table></div>
<h2>Metrics</h2>{{ metrics() }}
<h2>Scores</h2>
{%- for p in comparison.prompts %}
<h3>{{ p.prompt }}</h3>{{ scores(p) }}
{%- endfor %}
</details>
<script>
document.getElementById("key").addEventListener("toggle", () => {
  const count = {a: 0, b: 0, tie: 0};
  for (const picked of document.querySelectorAll("input:checked")) count[picked.value] += 1;
  document.getElementById("picks").textContent =
    `You picked A ${count.a} times and B ${count.b} times; ties: ${count.tie}.`;
});
</script>
{%- endif %}
</body>
</html>
"""


def page(comparison: Comparison, *, blind: bool = False) -> str:
    """The HTML of a comparison; `blind` leaves names and scores to the key."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(PAGE).render(
        title="Which answer is better?" if blind else "A and B on the same prompts",
        comparison=comparison,
        differences=[(difference, _bar(difference)) for difference in comparison.differences],
        width=BAR_WIDTH,
        blind=blind,
        number=number,
        signed=signed,
    )


def _bar(difference: Difference) -> Mapping[str, float] | None:
    """Where low, mean and high of an interval lie in a picture BAR_WIDTH wide with zero in its middle."""
    interval = difference.interval
    if interval is None:
        return None
    reach = max(abs(interval.low), abs(interval.high)) or 1.0
    half = BAR_WIDTH / 2
    values = {"low": interval.low, "mean": interval.mean, "high": interval.high}
    return {name: round(half + value / reach * (half - 6), 1) for name, value in values.items()}


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def signed(value: float) -> str:
    """Three significant digits, with the sign that a difference has."""
    return f"{value:+.3g}"
