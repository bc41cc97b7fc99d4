"""The pages tell the truth: examples run, counts and hashes are those of the files, links and names exist."""

import doctest
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from phasegpt.config import KEYS
from phasegpt.files import file_sha256
from phasegpt.metrics.declared import COSTS, DECLARED
from phasegpt.metrics.spiral import weights
from phasegpt.metrics.words import MARKERS, words_of
from phasegpt.pairs import COMPLEXITIES, STRATA, SUBTLETIES
from phasegpt.shortcuts import Answer, marker_aucs
from tests.benchmarks.metric_validation import DOMAINS, auc, letters_a_word, markers, table

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data"
DATASHEET = (DATA / "README.md").read_text(encoding="utf-8")
PROSE = " ".join(DATASHEET.split())
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]
V14, V13, UNPAIRED, OWN, PROMPTS, FLUENCY = (
    "preferences_v14_100pairs.jsonl",
    "preferences_v13_10pairs.jsonl",
    "unpaired_v14.jsonl",
    "preferences_own.jsonl",
    "eval_prompts.jsonl",
    "fluency.txt",
)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def word_counts(name: str, field: str) -> list[int]:
    return [len(row[field].split()) for row in rows(name)]


# --- keys and examples -----------------------------------------------------------------------------------------------


def key_table(name: str) -> dict[str, str]:
    """{key: its default as the page writes it}."""
    return dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (`.*?`|required) \|", page(name), re.M))


@pytest.mark.parametrize("name", ["docs/methods.md", "configs/v14/README.md"])
def test_every_config_key_has_a_row(name: str) -> None:
    assert [key for key in KEYS if key not in key_table(name)] == []


def test_both_tables_of_keys_give_the_same_defaults() -> None:
    methods, configs = key_table("docs/methods.md"), key_table("configs/v14/README.md")
    assert {key: methods[key] for key in KEYS} == {key: configs[key] for key in KEYS}


JUDGED = "pycon judged"  # the fence of examples that ask the bundled model


@pytest.mark.parametrize(
    ("name", "fences"),
    [
        ("docs/methods.md", {"python"}),
        ("docs/metrics.md", {"python"}),
        pytest.param("docs/metrics.md", {"python", JUDGED}, marks=pytest.mark.slow),
    ],
)
def test_worked_examples_come_out_as_printed(name: str, fences: set[str]) -> None:
    blocks = re.findall(rf"```(python|{JUDGED})\n(.*?)```", page(name), re.S)
    assert {fence for fence, _ in blocks} >= fences
    code = "\n".join(block for fence, block in blocks if fence in fences)
    example = doctest.DocTestParser().get_doctest(code, {}, name, name, 0)
    said: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert results.attempted > 0
    assert results.failed == 0, "".join(said)


def test_the_metrics_page_has_the_fitted_weights() -> None:
    judged, lexical = weights("judged"), weights("lexical")
    found = re.findall(r"^\| (\w+) \| (−?\d+\.\d{3}) \| (−?\d+\.\d{3}|-) \|", page("docs/metrics.md"), re.M)

    def shown(value: float) -> str:
        return f"{value:.3f}".replace("-", "−")

    assert found == [(n, shown(judged[n]), shown(lexical[n]) if n in lexical else "-") for n in judged]


def test_the_first_tables_of_the_metrics_page_are_what_metrics_declare() -> None:
    rows = [
        f"| `{m.name}` | {'higher' if m.better == 'max' else 'lower'} | {m.range} | {m.unit} | {m.of} | {m.cost} | "
        f"{m.meaning} |"
        for m in DECLARED.values()
    ]
    costs = [f"| {cost} | {needs} |" for cost, needs in COSTS.items()]
    begin = (
        "| metric | better | range | unit | a value for each | cost | what it says |\n|---|---|---|---|---|---|---|\n"
    )
    between = "\n\n| cost | what has to run |\n|---|---|\n"
    assert "\n".join([begin + "\n".join(rows) + between + "\n".join(costs), ""]) in page("docs/metrics.md")


@pytest.mark.slow  # minutes: the judge reads every text
def test_the_metrics_page_quotes_what_the_validation_prints() -> None:
    assert table() in page("docs/metrics.md")


# --- the datasheet ---------------------------------------------------------------------------------------------------


def test_the_datasheet_has_each_file_with_its_true_hash_and_size() -> None:
    found = re.findall(r"^\| `(\S+)` \| (\d+) \w+ \| `([0-9a-f]{64})` \|", DATASHEET, re.M)
    sizes = {name: len(rows(name)) for name in (V14, V13, UNPAIRED, OWN, PROMPTS, "spiral_fit_answers.jsonl")}
    sizes[FLUENCY] = len((DATA / FLUENCY).read_text(encoding="utf-8").split())
    assert {name: int(size) for name, size, _ in found} == sizes
    assert {name: digest for name, _, digest in found} == {name: file_sha256(DATA / name) for name in sizes}


def test_every_data_file_is_in_the_datasheet() -> None:
    assert [path.name for path in DATA.iterdir() if f"`{path.name}`" not in DATASHEET and path.suffix != ".md"] == []


def test_the_counts_of_the_strata_are_true() -> None:
    found = re.findall(r"^\| (\w+) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \|$", DATASHEET, re.M)
    counted = Counter(tuple(row[key] for key in STRATA) for row in rows(V14))
    assert [(domain, complexity) for domain, complexity, *_ in found] == [(d, c) for d in DOMAINS for c in COMPLEXITIES]
    for domain, complexity, *numbers in found:
        assert [int(n) for n in numbers] == [counted[domain, complexity, level] for level in SUBTLETIES]


def test_the_counts_of_the_ten_pairs_are_true() -> None:
    domains, levels = (Counter(row[key] for row in rows(V13)) for key in ("domain", "subtlety"))
    said = (
        f"{domains['philosophy']} philosophy, {domains['science']} science, {domains['social']} social and "
        f"{domains['artistic']} artistic; {levels['explicit']} explicit, {levels['moderate']} moderate and "
        f"{levels['implicit']} implicit."
    )
    assert said in PROSE


@pytest.mark.parametrize("name", [V14, V13])
def test_the_lengths_are_true(name: str) -> None:
    chosen, rejected = word_counts(name, "chosen"), word_counts(name, "rejected")
    cells = " | ".join(f"{fmean(counts):.1f} | {min(counts)} to {max(counts)}" for counts in (chosen, rejected))
    assert f"| `{name}` | {cells} | {auc(chosen, rejected):.2f} |" in DATASHEET


def test_the_known_limits_have_true_numbers() -> None:
    short = [sum(n < 85 for n in word_counts(V14, field)) for field in ("chosen", "rejected")]
    by_level = {
        level: fmean(len(row["chosen"].split()) for row in rows(V14) if row["subtlety"] == level)
        for level in SUBTLETIES
    }
    letters = {field: [letters_a_word(row[field]) for row in rows(V14)] for field in ("chosen", "rejected")}
    giveaway, silent = (
        auc(
            *(
                [markers(row[field]) for row in rows(V14) if row["subtlety"] == level]
                for field in ("chosen", "rejected")
            )
        )
        for level in ("explicit", "implicit")
    )
    answers = [
        Answer(line, field, row["prompt"], row[field], field == "chosen", row["subtlety"])
        for line, row in enumerate(rows(V14))
        for field in ("chosen", "rejected")
    ]
    for said in (
        f"{short[0]} chosen and {short[1]} rejected ones of the {len(rows(V14))}",
        f"({by_level['implicit']:.0f} words on average, against {by_level['explicit']:.0f} explicit and "
        f"{by_level['moderate']:.0f} moderate)",
        f"({fmean(letters['rejected']):.2f} letters against {fmean(letters['chosen']):.2f})",
        f"tells them apart with an AUC of {auc(letters['rejected'], letters['chosen']):.2f}",
        f"(AUC {giveaway:.2f})",
        f"In implicit pairs it tells nothing (AUC {silent:.2f})",
        f"(AUC {marker_aucs(answers)['implicit'].value:.2f}, of a model trained on the other pairs of the whole file;",
        f"the same model reaches {marker_aucs([a for a in answers if a.subtlety == 'implicit'])['all'].value:.2f}",
    ):
        assert said in PROSE


def test_the_counts_of_answers_with_marker_words_are_true() -> None:
    numbers = [
        sum(not MARKERS.isdisjoint(words_of(row[field])) for row in rows(V14) if row["subtlety"] == level)
        for level in SUBTLETIES
        for field in ("chosen", "rejected")
    ]
    found = re.search(r"explicit pairs in (\d+) and (\d+) of 36, .*? (\d+) and (\d+), .*? (\d+) and (\d+)\.", PROSE)
    assert found is not None
    assert [int(number) for number in found.groups()] == numbers


def test_each_example_of_a_label_is_in_the_pair_it_names() -> None:
    quoted = re.findall(r'^\| `(\w+)` \| .*: "(.*?)(?: …)?" \| `(\S+)` \|$', DATASHEET, re.M)
    chosen = {row["id"]: row for row in rows(V14)}
    assert [level for level, _, _ in quoted] == list(SUBTLETIES)
    for level, text, identity in quoted:
        assert chosen[identity]["subtlety"] == level
        assert text in chosen[identity]["chosen"]


def test_each_domain_has_six_prompts_a_half_and_no_prompt_occurs_twice() -> None:
    assert set(Counter((row["domain"], row["half"]) for row in rows(PROMPTS)).values()) == {6}
    prompts = [row["prompt"] for name in (V14, V13, PROMPTS) for row in rows(name)]
    assert len(set(prompts)) == len(prompts)
    longest, shortest = max(len(p.split()) for p in prompts), min(len(p.split()) for p in prompts)
    assert f"| `prompt` | pairs, prompts | {shortest} to {longest} words |" in DATASHEET


# --- links and the file tree -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [*PAGES, DATA / "README.md", ROOT / "configs/v14/README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_relative_links_point_to_files(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S))
    relative = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in relative if not (path.parent / link).exists()] == []


def tree_paths(text: str) -> Iterator[str]:
    """The paths that a file tree names.

    A line is an indent of two blanks a level, a name, and after two blanks or more what it is. A name that ends in / is
    a folder, and .py files that its description names are in it; those that a file's description names are beside it.
    """
    folders: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        name, *about = re.split(r"\s{2,}", line.strip())
        path = "".join(folders[:depth]) + name
        yield path
        folder = path if name.endswith("/") else "".join(folders[:depth])
        if name.endswith("/"):
            folders[depth:] = [name]
        yield from (folder + member for member in re.findall(r"(?<![\w./])\w+\.py\b", " ".join(about)))


def readme_tree() -> str:
    blocks: list[str] = re.findall(r"^```\w*\n(phasegpt/.*?)^```", page("README.md"), re.S | re.M)
    assert len(blocks) == 1, "README.md has no single fenced block that begins with phasegpt/"
    return blocks[0]


def test_the_pairs_that_the_readme_shows_are_those_of_the_file() -> None:
    rows = [json.loads(line) for line in page("data/preferences_v14_100pairs.jsonl").splitlines()]
    shown = re.findall(r"^> \*(chosen|rejected):\* (.+)$", page("README.md"), re.M)
    assert len(shown) == 4
    assert all(text in {row[key] for row in rows} for key, text in shown)


def test_the_file_tree_names_nothing_that_is_not_there() -> None:
    assert [path for path in tree_paths(readme_tree()) if not (ROOT / path).exists()] == []


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_file_tree_names_every_tracked_module() -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "phasegpt/*.py", "tune/*.py", "cluster/*.py"]
    tracked = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    named = set(tree_paths(readme_tree()))
    assert tracked
    assert [path for path in tracked if path not in named and not path.endswith("__init__.py")] == []


def test_a_tree_is_read_by_its_indents() -> None:
    text = "a/    first\n  b.py   with c.py\n  d/     x.py, y.py (two)\n    z.py  deep\ne/f/\n  g.py\nMakefile  top\n"
    assert list(tree_paths(text)) == [
        "a/",
        "a/b.py",
        "a/c.py",
        "a/d/",
        "a/d/x.py",
        "a/d/y.py",
        "a/d/z.py",
        "e/f/",
        "e/f/g.py",
        "Makefile",
    ]


# --- results ---------------------------------------------------------------------------------------------------------


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page(f"docs/results/{name}.json"))
    return found


@pytest.mark.parametrize("name", ["smollm2-a", "smollm2-own"])
def test_the_results_page_quotes_the_finalists_of_the_summaries(name: str) -> None:
    for finalist in result(name)["finalists"]:
        gain, (low, high) = finalist["over_baseline"], finalist["interval"]
        row = f"| {finalist['mean']:.3f} [{low:.3f}, {high:.3f}] | "
        said = f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        [found] = [line for line in page("docs/results.md").splitlines() if row in line and finalist["trial"] in line]
        assert said in found
        assert f"| {finalist['metrics']['perplexity']:.2f} |" in found


@pytest.mark.parametrize("name", ["smollm2-lambdas", "smollm2-factors"])
def test_the_results_page_quotes_the_arms_of_the_summaries(name: str) -> None:
    for rows in (result(name)["equal_steps"], result(name)["equal_kl"]):
        for arm in rows:
            low, high = arm["interval"]
            assert f"| {arm['mean']:.3f} [{low:.3f}, {high:.3f}] |" in page("docs/results.md")
            if gain := arm["over_first"]:
                assert f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" in page("docs/results.md")


def test_the_results_page_quotes_the_winners_of_the_tracks() -> None:
    for winner in result("laptop-tracks")["comparison"]:
        mean, gain, (low, high) = (
            winner["mean"],
            winner["over_untuned"],
            (winner["interval"][e] for e in ("low", "high")),
        )
        cells = [
            f"{mean:.3f} [{low:.3f}, {high:.3f}]",
            f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
            f"{winner['metrics']['perplexity']:.2f}",
            f"{winner['metrics']['kl_divergence']:.3f}",
            f"{winner['p_best']:.2f}",
        ]
        assert f"| {' | '.join(cells)} |" in page("docs/results.md")
        card = page(f"docs/cards/track-{winner['track']}.md")
        assert f"| spiral_score | higher | {mean:.4g} | {low:.4g} to {high:.4g} |" in card


def test_the_readme_and_the_baseline_have_the_numbers_of_the_summaries() -> None:
    summary = result("smollm2-own")
    best, untuned = summary["finalists"][0], summary["baseline_final"]["metrics"]
    gain, (low, high) = best["over_baseline"], best["interval"]
    over = f"**{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]**"
    assert f"| {best['mean']:.3f} [{low:.3f}, {high:.3f}] | {over} |" in page("README.md")
    for metric in ("spiral_score", "subtlety", "repetition", "distinct_2"):
        final, search = (summary[half]["metrics"][metric] for half in ("baseline_final", "baseline"))
        assert re.search(rf"^\| {metric} \| {final:.3f} \[.*\] \| {search:.3f} \[", page("docs/baseline.md"), re.M)
    assert f"{untuned['perplexity']:.2f}" in page("docs/baseline.md")
