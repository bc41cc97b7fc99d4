"""Each check on pairs made for it: what it finds, what it leaves alone, and a file that has every defect at once."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phasegpt import data_checks
from phasegpt.config_io import load_config, track_config
from phasegpt.data_checks import Material, Rules
from phasegpt.data_report import check_file
from phasegpt.metrics.words import FUNCTION_WORDS, MARKERS
from phasegpt.near_duplicates import Text, likenesses, ngrams
from phasegpt.pairs import COMPLEXITIES, SUBTLETIES, Pair
from phasegpt.shortcuts import Answer, auc, length_auc, marker_aucs
from phasegpt.token_lengths import TemplateCounter, WordCounter, token_counter
from tests.toy import DOMAINS

WORDS = sorted(FUNCTION_WORDS - MARKERS)
RULES = Rules(domains=DOMAINS, prompts="no/such/file.jsonl", base_model="no/such/model")
Row = dict[str, Any]


def words(seed: object, count: int) -> str:
    """`count` words drawn by `seed`: no two texts have three in a row in common but by rare chance."""
    return " ".join(random.Random(repr(seed)).choices(WORDS, k=count))  # noqa: S311 - words, not secrets


def pair(number: int, **changes: Any) -> Pair:
    """A pair like no other, of a stratum by its number."""
    made = Pair(
        id=f"pair-{number}",
        prompt=words(("prompt", number), 9),
        chosen=words(("chosen", number), 40),
        rejected=words(("rejected", number), 40),
        domain=DOMAINS[number % 4],
        complexity=COMPLEXITIES[number % 3],
        subtlety=SUBTLETIES[number // 3 % 3],
        line=number,
    )
    return replace(made, **changes)


def some(count: int, **changes: Any) -> list[Pair]:
    return [pair(number, **changes) for number in range(1, count + 1)]


def found(check: data_checks.Check, pairs: Sequence[Pair], rules: Rules = RULES) -> list[tuple[int | None, str]]:
    findings = list(check(Material(rules, tuple(pairs))))
    assert {finding.severity for finding in findings} <= {"warning"}
    assert len({finding.code for finding in findings}) <= 1
    return [(finding.line, finding.message) for finding in findings]


# --- all at once -----------------------------------------------------------------------------------------------------


def good_row(number: int) -> Row:
    """A row without a defect of its own; of all rows, chosen answers are longer and say "however"."""
    return {
        "id": f"row-{number}",
        "prompt": words(("prompt", number), 9),
        "chosen": words(("chosen", number), 45) + " however",
        "rejected": words(("rejected", number), 40),
        "domain": DOMAINS[number % 2],
        "complexity": "simple",
    }


def changed(number: int, **changes: Any) -> bytes:
    row = {**good_row(number), **changes}
    return json.dumps({key: value for key, value in row.items() if value is not ...}).encode()


DEFECTS: dict[int, tuple[str, Callable[[], bytes]]] = {
    1: ("not_utf8", lambda: b'{"prompt": "caf\xe9"}'),
    2: ("not_json", lambda: b'{"prompt": "Why?",}'),
    3: ("not_object", lambda: b'["Why?", "Because.", "No."]'),
    4: ("missing_field", lambda: changed(4, rejected=...)),
    5: ("wrong_type", lambda: changed(5, chosen=3)),
    6: ("empty_text", lambda: changed(6, prompt=" \t ")),
    7: ("same_answers", lambda: changed(7, chosen="Because.", rejected="Because. ")),
    8: ("unknown_value", lambda: changed(8, domain="sience")),
    9: ("bad_character", lambda: changed(9, chosen="Be\x00cause.")),
    10: ("not_one_turn", lambda: changed(10, prompt=[{"role": "system", "content": "Be brief."}])),
    13: ("duplicate_row", lambda: changed(12, id="row-13")),
    14: ("duplicate_id", lambda: changed(14, id="row-12")),
    16: ("duplicate_prompt", lambda: changed(16, prompt=good_row(15)["prompt"].upper())),
    17: ("near_duplicate", lambda: changed(17, rejected=good_row(15)["rejected"] + " and so on")),
    18: ("label_in_text", lambda: changed(18, chosen=words(18, 45) + " however [implicit]")),
    19: ("too_long", lambda: changed(19, chosen=words("l", 500) + " however", rejected=words("r", 450))),
    20: ("lopsided", lambda: changed(20, rejected=words(20, 15))),
    21: ("long_line", lambda: changed(21) + b" " * 70_000),
    22: ("shared_prompt", lambda: changed(22, prompt=good_row(15)["prompt"], domain="artistic")),
}
OF_THE_FILE = (
    "length_gives_away",
    "markers_give_away",
    "strata_missing",
    "strata_unbalanced",
    "strata_unbalanced",
    "unknown_field",
)


def test_a_file_of_thirty_rows_with_every_defect_is_reported_completely_one_line_a_defect(tmp_path: Path) -> None:
    """30 rows, 12 of them errors; domain social has none, complexity knows only simple."""
    path = tmp_path / "pairs.jsonl"
    rows = [DEFECTS[line][1]() if line in DEFECTS else changed(line) for line in range(1, 30)]
    path.write_bytes(b"\n".join([*rows, changed(30, tone="dry")]))
    report = check_file(path, RULES)
    by_line = {finding.line: finding.code for finding in report.findings if finding.line is not None}
    assert by_line == {line: code for line, (code, _) in DEFECTS.items()}
    assert sorted(f.code for f in report.findings if f.line is None) == sorted(OF_THE_FILE)
    assert len(report.findings) == len(DEFECTS) + len(OF_THE_FILE)
    assert report.rows == 30
    assert [finding.line for finding in report.errors] == [*range(1, 11), 13, 14]
    assert report.as_text().splitlines()[-1] == "30 rows, 12 errors, 13 warnings"


def test_pairs_without_a_defect_have_no_finding() -> None:
    pairs = some(72)
    for check in data_checks.CHECKS:
        assert found(check, pairs) == []


def test_nothing_raises_on_a_file_without_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for source in (tmp_path / "empty.jsonl", tmp_path, tmp_path / "absent.parquet"):
        report = check_file(source, RULES)
        assert (report.rows, len(report.errors), report.warnings) == (0, 1, [])


plain = st.none() | st.booleans() | st.floats() | st.text(max_size=30) | st.sampled_from(["science", "a(chosen]"])
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]) | plain, "content": plain})
values = plain | st.lists(message | plain, max_size=3) | st.dictionaries(st.text(max_size=3), plain, max_size=2)
fields = ("id", "prompt", "chosen", "rejected", "completion", "label", "half", "domain", "complexity", "subtlety", "x")
rows_of_anything = st.dictionaries(st.sampled_from(fields), values).map(lambda row: json.dumps(row).encode())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows_of_anything | st.binary(max_size=40), max_size=6))
def test_nothing_raises_whatever_the_file_holds(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = check_file(path, RULES)
    assert len(report.as_text().splitlines()) == len(report.findings) + len(report.notes) + 1
    assert json.loads(json.dumps(report.as_dict()))["rows"] == report.rows


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_a_prompt_counts_as_the_same_in_other_capitals_and_spaces() -> None:
    pairs = [pair(1, prompt="Why  so?"), pair(2, prompt="why so?"), pair(3, prompt="Why so, then?")]
    assert found(data_checks.duplicate_prompts, pairs) == [(2, "the same prompt as in line 1")]


def test_a_prompt_of_a_held_out_domain_is_not_trained_on() -> None:
    pairs = [pair(1, prompt="Why?", domain="artistic"), pair(2, prompt="Why?", domain="science"), pair(3)]
    assert found(data_checks.shared_prompts, pairs) == [
        (1, "the prompt of line 2 again, here in the held-out domain artistic")
    ]
    assert found(data_checks.duplicate_prompts, pairs) == []
    nothing_held = replace(RULES, held_out_domains=())
    assert found(data_checks.shared_prompts, pairs, nothing_held) == []
    assert found(data_checks.duplicate_prompts, pairs, nothing_held) == [(2, "the same prompt as in line 1")]


def test_a_prompt_that_models_are_judged_by_is_not_trained_on(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Why?", "domain": "science", "half": "final"}))
    [(line, message)] = found(
        data_checks.shared_prompts, [pair(5, prompt="Why?")], replace(RULES, prompts=str(prompts))
    )
    assert line == 5
    assert message == f"the prompt is also in line 1 of {prompts}, by which models are judged"


# --- answers ---------------------------------------------------------------------------------------------------------


def test_one_body_repeated_through_all_rows_is_found_in_each() -> None:
    pairs = some(4, chosen=words("body", 40))
    message = "chosen shares 100% of its word 3-grams with chosen of line 1"
    assert found(data_checks.near_duplicates, pairs) == [(line, message) for line in (2, 3, 4)]


def test_the_share_of_near_duplicates_is_that_of_the_shorter_ones_ngrams() -> None:
    """40 words have 38 3-grams; the first 30 words of another text keep 28 of them: 28 / 38 = 74 %."""
    body = words("body", 40)
    other = " ".join([*body.split()[:30], *words("tail", 10).split()])
    [(line, message)] = found(data_checks.near_duplicates, [pair(1, chosen=body), pair(2, rejected=other)])
    assert (line, message) == (2, "rejected shares 74% of its word 3-grams with chosen of line 1")


def test_answers_of_one_pair_may_share_their_wording() -> None:
    body = words("body", 40)
    assert found(data_checks.near_duplicates, [pair(1, chosen=f"{body} Yes.", rejected=f"{body} No.")]) == []


def test_likeness_to_the_other_answer_of_a_pair_hides_no_likeness_to_another_pair() -> None:
    body = words("body", 40)
    half = " ".join([*body.split()[:30], *words("tail", 10).split()])
    pairs = [pair(1, chosen=half), pair(2, chosen=body, rejected=f"{body} No.")]
    shares = "shares 74% of its word 3-grams with chosen of line 1"
    assert found(data_checks.near_duplicates, pairs) == [(2, f"chosen {shares}"), (2, f"rejected {shares}")]


def test_every_text_like_an_earlier_one_is_found_and_no_other() -> None:
    bodies = [words(number, 60) for number in range(30)]
    texts = [Text(line, "chosen", body) for line, body in enumerate(bodies)]
    texts += [Text(100 + line, "chosen", f"{body} {words(('more', line), 6)}") for line, body in enumerate(bodies)]
    assert [(like.text.line, like.earlier.line) for like in likenesses(texts)] == [(100 + n, n) for n in range(30)]


@pytest.mark.parametrize("share", [0.55, 0.9])
@pytest.mark.parametrize("longer", [1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_what_shares_more_than_half_of_the_shorter_text_is_always_found(seed: int, longer: int, share: float) -> None:
    """Of 102 words and 100 3-grams the first ones stand in the other text, which is as long or three times as long."""
    count = round(100 * share)
    short = words((seed, "short"), 102).split()
    long = [*short[: count + 2], *words((seed, "rest"), 102 * longer - count - 2).split()]
    texts = [Text(1, "chosen", " ".join(long)), Text(2, "chosen", " ".join(short))]
    for pair_of in (texts, texts[::-1]):
        [like] = likenesses(pair_of)
        assert like.share == pytest.approx(share, abs=0.03)


def test_of_several_like_it_the_one_that_a_text_is_most_like_is_named() -> None:
    body = words("body", 100).split()
    more, most = [*body[:55], *words("tail", 45).split()], [*words("head", 10).split(), *body[10:]]
    texts = [Text(line, "chosen", " ".join(text)) for line, text in enumerate((more, most, body))]
    [like] = likenesses(texts)
    assert (like.text.line, like.earlier.line) == (2, 1)


def test_likeness_is_what_counting_by_hand_finds() -> None:
    """Few words, so that texts share many 3-grams; each is held against all that are like no earlier one."""
    for seed in range(20):
        draw = random.Random(seed)  # noqa: S311 - words, not secrets
        bodies = [" ".join(draw.choices("abcde", k=draw.randint(0, 12))) for _ in range(60)]
        texts = [Text(number // 2, "chosen", body) for number, body in enumerate(bodies)]
        first: list[Text] = []
        expected = []
        for text in filter(lambda text: ngrams(text.text), texts):
            grams = ngrams(text.text)
            shares = [
                (len(grams & other) / min(len(grams), len(other)), -number)
                for number, earlier in enumerate(first)
                if earlier.line != text.line and (other := ngrams(earlier.text))
            ]
            share, number = max(shares, default=(0.0, 0))
            if share >= 0.5:
                expected.append((text, first[-number], share))
            else:
                first.append(text)
        assert [(like.text, like.earlier, like.share) for like in likenesses(texts)] == expected
        assert expected


def test_texts_of_other_scripts_are_compared_by_their_own_words() -> None:
    texts = [
        "Река течёт мимо старого моста в 2024",
        "Часы на башне давно стоят, 2024",
        "河流从不停留。",
        "钟楼早已停摆。",
        "…",
        "?!",
    ]
    apart = [Text(line, "chosen", text) for line, text in enumerate(texts)]
    assert list(likenesses(apart)) == []
    [like] = likenesses([*apart, Text(9, "chosen", "Река течёт мимо старого моста в 2025")])
    assert (like.earlier.line, like.share) == (0, 0.8)


def test_a_text_too_short_for_ngrams_is_one_itself() -> None:
    assert ngrams("Of course!") == {("of", "course")}
    assert ngrams("a b c d") == {("a", "b", "c"), ("b", "c", "d")}


@pytest.mark.parametrize(
    "text",
    [
        "[explicit] The river stays.",
        "The river stays (implicit).",
        "(rejected)\nThe river stays.",
        "The river stays. [simple / moderate]",
        "The river (science, complex) stays.",
        "<chosen> The river stays.",
        "Label: good. The river stays.",
        "The river stays, label: implicit.",
        "The river, domain: science, stays.",
        "Complexity = medium\nThe river stays.",
        "Chosen: the river stays.",
        "The river stays.\n**Rejected answer:** it does not.",
        "This is the chosen answer, for the river stays.",
        "A typical rejected response would say that the river stays.",
        "The river stays.\nexplicit",
    ],
)
def test_a_label_that_stands_as_one_is_found(text: str) -> None:
    [(line, message)] = found(data_checks.labels_in_text, [pair(7, chosen=text)])
    assert (line, message[:33]) == (7, "chosen has a label written into i")


@pytest.mark.parametrize(
    "text",
    [
        "The plan is rejected by the committee, and rightly.",
        "She was chosen because her answer was moderate.",
        "Simple: ask the ferryman.",
        "It is an (implicit) promise, and a (complex) one.",
        "The humanities (philosophy) and the sciences differ.",
        "A label on the jar said otherwise.",
        "In the domain of science: nothing is simple.",
        "Explicit rules help; implicit ones rule.",
        "The answer she had chosen, rejected, and chosen again.",
        "See section [4] and social [sic] matters.",
    ],
)
def test_ordinary_prose_with_the_same_words_is_left_alone(text: str) -> None:
    assert found(data_checks.labels_in_text, [pair(7, prompt=text, chosen=text, rejected=f"{text} No.")]) == []


def test_labels_are_those_of_the_rules_own_domains() -> None:
    pairs = [pair(1, prompt="[law] Why?"), pair(2, prompt="[science] Why?")]
    lines = [line for line, _ in found(data_checks.labels_in_text, pairs, replace(RULES, domains=("law",)))]
    assert lines == [1]


def test_one_answer_over_three_times_the_other_is_lopsided() -> None:
    pairs = [pair(1, chosen=words(1, 30), rejected=words(2, 10)), pair(2, chosen=words(3, 10), rejected=words(4, 31))]
    assert found(data_checks.lopsided, pairs) == [(2, "rejected has 31 words, the other answer 10")]


# --- shortcuts -------------------------------------------------------------------------------------------------------


def test_the_auc_is_the_share_of_pairs_in_order_with_ties_as_halves() -> None:
    """2 > 1, 2 = 2, 3 > 1, 3 > 2 -> 3.5 of 4; its error without a difference is sqrt(5 / 48)."""
    found_auc = auc([2, 3], [1, 2])
    assert found_auc is not None
    assert found_auc.value == 3.5 / 4
    assert found_auc.error == pytest.approx((5 / 48) ** 0.5)
    assert auc([1.0], []) is None


@pytest.mark.parametrize(("chosen", "said"), [(60, "longer"), (20, "shorter"), (40, None)])
def test_length_gives_away_in_either_direction(chosen: int, said: str | None) -> None:
    pairs = [
        pair(n, chosen=words(("c", n), chosen + n % 5), rejected=words(("r", n), 40 + n % 5)) for n in range(1, 25)
    ]
    messages = [message for _, message in found(data_checks.length_gives_away, pairs)]
    assert [f"chosen answers are {said}" in message for message in messages] == ([True] if said else [])


def test_few_pairs_are_not_accused_by_chance() -> None:
    """All of 4 chosen answers longer: an AUC of 1, but of 3 or fewer within two standard errors."""
    longer = [pair(n, chosen=words(("c", n), 50)) for n in range(1, 5)]
    assert len(found(data_checks.length_gives_away, longer)) == 1
    assert found(data_checks.length_gives_away, longer[:2]) == []


def marked(number: int, chosen: str, rejected: str, **changes: Any) -> Pair:
    plain = pair(number, **changes)
    return replace(plain, chosen=f"{plain.chosen} {chosen}", rejected=f"{plain.rejected} {rejected}")


def test_marker_words_give_away_by_which_and_not_only_by_how_many() -> None:
    pairs = [marked(n, "synthesis", "however", subtlety=None) for n in range(1, 31)]
    [(line, message)] = found(data_checks.markers_give_away, pairs)
    assert line is None
    assert "in all answers alone tells chosen from rejected with an AUC of 1.00" in message


def test_where_subtlety_is_labelled_marker_words_are_judged_in_implicit_answers() -> None:
    explicit = [marked(n, "however", "", subtlety="explicit") for n in range(1, 31)]
    plain = [pair(n, subtlety="implicit") for n in range(31, 61)]
    assert found(data_checks.markers_give_away, explicit) == []
    assert found(data_checks.markers_give_away, explicit + plain) == []
    both = explicit + [marked(n, "however", "", subtlety="implicit") for n in range(31, 61)]
    [(_, message)] = found(data_checks.markers_give_away, both)
    assert "in implicit answers" in message


def test_the_marker_model_never_sees_the_prompt_that_it_scores() -> None:
    """Each pair has a marker of its own: by heart it would tell all, held out it tells nothing."""
    names = sorted(MARKERS)[:40]
    answers = [
        Answer(n, name, f"prompt {n}", f"word {marker}" if name == "chosen" else "word", name == "chosen")
        for n, marker in enumerate(names)
        for name in ("chosen", "rejected")
    ]
    same = [replace(answer, text="word but" if answer.wanted else "word") for answer in answers]
    assert marker_aucs(same)["all"].value == 1.0
    held_out = marker_aucs([replace(a, text=f"word {names[a.line]}") for a in answers])["all"]
    assert held_out.value == 0.5


def test_unpaired_answers_have_the_same_shortcuts() -> None:
    answers = [Answer(n, "completion", f"p{n}", words(n, 10 + 5 * (n % 2)), wanted=n % 2 == 1) for n in range(20)]
    found_auc = length_auc(answers)
    assert found_auc is not None
    assert found_auc.value == 1.0


# --- tokens and strata -----------------------------------------------------------------------------------------------


def test_the_tokens_that_are_lost_are_those_that_encoding_cuts(toy_model_dir: Path, toy_pairs_file: Path) -> None:
    from transformers import PreTrainedTokenizerFast  # AutoTokenizer would put Qwen's own pre-tokenizer into the toy's

    from phasegpt.encoding import encode_pair
    from phasegpt.pairs import read_pairs

    tokenizer = PreTrainedTokenizerFast.from_pretrained(toy_model_dir)
    rules = replace(RULES, base_model=str(toy_model_dir), max_length=48, max_prompt_length=20)
    pairs = read_pairs(toy_pairs_file, DOMAINS)
    cut = {p.line: n for p in pairs if (n := encode_pair(tokenizer, p, 48, 20).cut_tokens)}
    lost = {line: int(message.split()[0]) for line, message in found(data_checks.cut_by_max_length, pairs, rules)}
    assert len(cut) > 10
    assert lost == cut


def test_without_the_tokenizer_tokens_are_guessed_from_words_and_the_message_says_so() -> None:
    """Prompt 10 words: 14 + 12. Answers 20 and 100 words: 28 and 136. 26 + 136 = 162, so 62 of 190 are lost at 100."""
    pairs = [pair(3, prompt=words(0, 10), chosen=words(1, 20), rejected=words(2, 100)), pair(4)]
    rules = replace(RULES, max_length=100, max_prompt_length=50)
    assert found(data_checks.cut_by_max_length, pairs, rules) == [
        (
            3,
            "62 tokens are lost (33% of the row): the prompt has 26 of at most 50, with its longest answer 162 of at "
            "most 100 (counted by words, 1.35 tokens each)",
        )
    ]


def test_the_counter_is_the_models_own_where_its_folder_is_at_hand(toy_model_dir: Path, tmp_path: Path) -> None:
    assert isinstance(token_counter(str(toy_model_dir), tmp_path), TemplateCounter)
    assert isinstance(token_counter("Qwen/Qwen2.5-0.5B-Instruct", tmp_path), WordCounter)
    for template in ("{{ raise_exception('no') }}", "{% if %}"):
        (tmp_path / "tokenizer.json").write_text("{}")
        (tmp_path / "chat_template.jinja").write_text(template)
        assert isinstance(token_counter(str(tmp_path), tmp_path), WordCounter)


def test_a_template_in_an_older_folders_settings_is_used_with_its_special_tokens(tmp_path: Path) -> None:
    from tests.toy import build_toy_model

    folder = build_toy_model(tmp_path / "old")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = "{{ eos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    eos = {"eos_token": {"content": "<|im_end|>", "lstrip": False}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **eos, "chat_template": template}))
    counter = token_counter(str(folder), tmp_path)
    assert counter.prompt("") == 2
    assert counter.completion("", "") == 1


def test_strata_that_are_missing_or_far_from_balanced_are_of_the_whole_file() -> None:
    pairs = [pair(n, subtlety=None if n % 2 else "explicit", domain="science") for n in range(1, 10)]
    assert found(data_checks.strata_missing, pairs) == [(None, "subtlety is missing in 5 of 9 rows, first in line 1")]
    assert found(data_checks.strata_unbalanced, pairs) == [
        (None, "domain: 9 rows are science, only 0 are philosophy"),
        (None, "subtlety: 4 rows are explicit, only 0 are moderate"),
    ]


def test_a_domain_that_is_held_out_may_be_rare_or_missing() -> None:
    rules, rare = Rules(held_out_domains=("artistic",)), Rules(held_out_domains=())
    strata = {"complexity": COMPLEXITIES, "subtlety": SUBTLETIES}
    pairs = [
        pair(n, domain=("philosophy", "science", "social")[n % 3], **{key: of[n % 3] for key, of in strata.items()})
        for n in range(1, 13)
    ]
    assert found(data_checks.strata_unbalanced, pairs, rules) == []
    assert found(data_checks.strata_unbalanced, pairs, rare) == [
        (None, "domain: 4 rows are philosophy, only 0 are artistic")
    ]


@pytest.mark.parametrize(("track", "missing"), [("a", ["complexity", "subtlety"]), ("b", [])])
def test_labels_are_missed_only_where_the_config_reads_them(track: str, missing: list[str]) -> None:
    config = load_config(track_config(track), overrides=["data.stratify_by=[domain]"])
    unlabelled = some(4, complexity=None, subtlety=None)
    messages = [message for _, message in found(data_checks.strata_missing, unlabelled, Rules.of(config))]
    assert messages == [f"{label} is missing in 4 of 4 rows, first in line 1" for label in missing]


def test_a_sample_is_taken_evenly_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join(changed(number) for number in range(1, 11)))
    assert check_file(path, RULES).notes == ("tokens are counted by words, 1.35 tokens each",)
    monkeypatch.setattr(data_checks, "SAMPLE_ROWS", 4)
    assert [row.line for row in Material(RULES, some(10)).sample] == [1, 3, 6, 8]
    assert check_file(path, RULES).notes[1:] == (
        "marker words, tokens and near-duplicates are those of 4 of 10 rows, taken evenly",
    )
