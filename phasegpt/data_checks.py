"""What is wrong with preference data that can be read: a model would learn a shortcut, or be judged by what trained it.

Each check is a small function in the table CHECKS, from the rows without errors to warnings. Structure is looked at in
every row; marker words, tokens and near-duplicates in a sample of at most SAMPLE_ROWS, taken evenly. Imports no torch,
and knows nothing of how rows are read or findings are shown.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from phasegpt.base_model import BUNDLED
from phasegpt.config import Config
from phasegpt.config_io import project_root, resolve
from phasegpt.config_sections import Data, Evaluation, Training
from phasegpt.findings import Finding, shown, warning
from phasegpt.near_duplicates import Text, likenesses
from phasegpt.pairs import COMPLEXITIES, STRATA, SUBTLETIES, Pair, Prompt, UnpairedRow, scan_prompts
from phasegpt.readers import read_rows
from phasegpt.shortcuts import Answer, Auc, length_auc, marker_aucs, words
from phasegpt.token_lengths import TokenCounter, token_counter

SAMPLE_ROWS = 10_000
GIVE_AWAY = 0.60
LOPSIDED = 3
UNBALANCED = 3
QUALITIES = ("chosen", "rejected", *COMPLEXITIES, *SUBTLETIES)


@dataclass(frozen=True)
class Rules:
    """What a file is held against; by default the schema's own values and the bundled model's tokenizer.

    `strata` must be in every row; one of `labels` that is not among them may be left out, which is a warning.
    """

    domains: Sequence[str] = Data().domains
    strata: Sequence[str] = ()
    labels: Sequence[str] = STRATA
    held_out_domains: Sequence[str] = Evaluation().held_out_domains
    prompts: str = Evaluation().prompts
    base_model: str = BUNDLED
    max_length: int = Training.model_fields["max_length"].default
    max_prompt_length: int = Training.model_fields["max_prompt_length"].default

    @classmethod
    def of(cls, config: Config) -> "Rules":
        """Those of a config, which reads the labels it stratifies by, and all where a curriculum sorts pairs."""
        return cls(
            domains=config.data.domains,
            strata=config.data.stratify_by,
            labels=STRATA if config.training.curriculum_learning.active else config.data.stratify_by,
            held_out_domains=config.evaluation.held_out_domains,
            prompts=config.evaluation.prompts,
            base_model=config.model.base_model,
            max_length=config.training.max_length,
            max_prompt_length=config.training.max_prompt_length,
        )


@dataclass(frozen=True)
class Material:
    """What the checks look at: the rows without errors, and the rules."""

    rules: Rules
    rows: Sequence[Pair | UnpairedRow] = ()

    @cached_property
    def pairs(self) -> list[Pair]:
        """The rows that are pairs: all or none."""
        return [row for row in self.rows if isinstance(row, Pair)]

    @cached_property
    def answers(self) -> list[Answer]:
        """The answers of all rows."""
        return [answer for row in self.rows for answer in _answers(row)]

    @cached_property
    def sample(self) -> Sequence[Pair | UnpairedRow]:
        """At most SAMPLE_ROWS of the rows, at equal distances."""
        rows, count = self.rows, len(self.rows)
        return rows if count <= SAMPLE_ROWS else [rows[i * count // SAMPLE_ROWS] for i in range(SAMPLE_ROWS)]

    @cached_property
    def sampled_answers(self) -> list[Answer]:
        """The answers of the sample."""
        return [answer for row in self.sample for answer in _answers(row)]

    @cached_property
    def counter(self) -> TokenCounter:
        """Counts tokens."""
        return token_counter(self.rules.base_model, project_root())


def _answers(row: Pair | UnpairedRow) -> Iterator[Answer]:
    if isinstance(row, UnpairedRow):
        yield Answer(row.line, "completion", row.prompt, row.completion, row.label, row.subtlety)
    else:
        yield Answer(row.line, "chosen", row.prompt, row.chosen, True, row.subtlety)
        yield Answer(row.line, "rejected", row.prompt, row.rejected, False, row.subtlety)


def duplicate_prompts(material: Material) -> Iterator[Finding]:
    """A prompt that an earlier pair has; one that crosses into a held-out domain is `shared_prompts`' to tell."""
    first: dict[tuple[str, bool], int] = {}
    for pair in material.pairs:
        key = (_normal(pair.prompt), pair.domain in material.rules.held_out_domains)
        line = first.setdefault(key, pair.line)
        if line != pair.line:
            yield warning(pair.line, "duplicate_prompt", f"the same prompt as in line {line}")


def shared_prompts(material: Material) -> Iterator[Finding]:
    """A prompt that is trained on and also judged by: in a held-out domain, or among the evaluation prompts."""
    held = material.rules.held_out_domains
    trained = {_normal(row.prompt): row.line for row in reversed(material.rows) if row.domain not in held}
    for row in material.rows:
        line = trained.get(_normal(row.prompt))
        if row.domain in held and line is not None:
            message = f"the prompt of line {line} again, here in the held-out domain {row.domain}"
            yield warning(row.line, "shared_prompt", message)
    for prompt in _evaluation_prompts(material.rules):
        line = trained.get(_normal(prompt.prompt))
        if line is not None:
            message = (
                f"the prompt is also in line {prompt.line} of {material.rules.prompts}, by which models are judged"
            )
            yield warning(line, "shared_prompt", message)


def _evaluation_prompts(rules: Rules) -> tuple[Prompt, ...]:
    path = resolve(rules.prompts)
    return scan_prompts(read_rows(path)).rows if path.is_file() else ()


def _normal(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


def near_duplicates(material: Material) -> Iterator[Finding]:
    """An answer that shares half its wording or more with an earlier one of another row."""
    first: dict[str, Answer] = {}
    for answer in material.answers:
        earlier = first.setdefault(answer.text, answer)
        if earlier.line != answer.line:
            yield _alike(answer.line, answer.name, 1.0, earlier.line, earlier.name)
    distinct = [answer for answer in material.sampled_answers if first[answer.text].line == answer.line]
    for like in likenesses(Text(answer.line, answer.name, answer.text) for answer in distinct):
        yield _alike(like.text.line, like.text.name, like.share, like.earlier.line, like.earlier.name)


def _alike(line: int, name: str, share: float, other: int, other_name: str) -> Finding:
    message = f"{name} shares {share:.0%} of its word 3-grams with {other_name} of line {other}"
    return warning(line, "near_duplicate", message)


def labels_in_text(material: Material) -> Iterator[Finding]:
    """A label that stands in a text as a label; a prompt and each of its answers may have one."""
    domains = [domain.casefold() for domain in material.rules.domains]
    pattern = _label_pattern(domains)
    needed = ("label", *QUALITIES, *domains)  # a look for these first is eight times faster than the pattern alone
    for row in material.rows:
        for name, text in (("prompt", row.prompt), *((answer.name, answer.text) for answer in _answers(row))):
            lower = text.casefold()
            found = pattern.search(text) if any(word in lower for word in needed) else None
            if found:
                yield warning(row.line, "label_in_text", f"{name} has a label written into it: {shown(found[0])}")


def _label_pattern(domains: Sequence[str]) -> re.Pattern[str]:
    """Labels in brackets, behind a key ("domain: science"), at the head of a line, or as "the chosen answer".

    Not ordinary prose, as in "rejected by the committee", "an (implicit) promise", "simple: ask her".
    """
    label = "|".join((*QUALITIES, *map(re.escape, domains)))
    several = rf"(?:{label})(?:\s?[,/|;-]?\s?(?:{label}))"
    quality, sure, answer = "|".join(QUALITIES), "chosen|rejected|explicit|implicit", "answer|response|completion"
    start = r"^[^\w\n]{0,9}"
    return re.compile(
        rf"[\[<{{]\s?{several}*\s?[\]>}}]"
        rf"|\(\s?{several}+\s?\)"
        rf"|{start}\(\s?(?:{quality})\s?\)|\(\s?(?:{quality})\s?\)(?=\s?(?:$|[.,;:!?]))"
        rf"|\b(?:domain|complexity|subtlety|stratum|label|preference)\s?[:=]\s?[\"'\[(]?(?:{label}|true|false|[01])\b"
        rf"|{start}label\s?:"
        rf"|{start}(?:{sure})(?:\s(?:{answer}))?\s?(?::|$)"
        rf"|\b(?:chosen|rejected)[ _-](?:{answer})\b",
        re.IGNORECASE | re.MULTILINE,
    )


def length_gives_away(material: Material) -> Iterator[Finding]:
    """Length alone tells chosen from rejected."""
    found = length_auc(material.answers)
    if found and found.tells(GIVE_AWAY):
        longer = "longer" if found.value > 0.5 else "shorter"
        yield _gives_away("length_gives_away", "length", found, f"chosen answers are {longer}")


def markers_give_away(material: Material) -> Iterator[Finding]:
    """Marker words alone tell: in all answers, or in the implicit ones where subtlety is labelled."""
    if not material.rows:
        return
    found = marker_aucs(material.sampled_answers)
    name = "all" if len(found) == 1 else "implicit"
    if name in found and found[name].value > 0.5 and found[name].tells(GIVE_AWAY):
        feature = f"the bag of marker words in {name} answers"
        yield _gives_away("markers_give_away", feature, found[name], "cross-validated")


def _gives_away(code: str, feature: str, found: Auc, how: str) -> Finding:
    message = f"{feature} alone tells chosen from rejected with an AUC of {found.value:.2f} ({how}); 0.5 tells nothing"
    return warning(None, code, message)


def cut_by_max_length(material: Material) -> Iterator[Finding]:
    """A row that loses tokens to training.max_length or max_prompt_length."""
    rules, count = material.rules, material.counter
    for row in material.sample:
        prompt = count.prompt(row.prompt)
        kept_prompt = min(prompt, rules.max_prompt_length)
        lengths = [count.completion(row.prompt, answer.text) for answer in _answers(row)]
        lost = prompt - kept_prompt + sum(max(0, n - (rules.max_length - kept_prompt)) for n in lengths)
        if lost:
            share = lost / (prompt + sum(lengths))
            message = (
                f"{lost} tokens are lost ({share:.0%} of the row): the prompt has {prompt} of at most "
                f"{rules.max_prompt_length}, with its longest answer {prompt + max(lengths)} of at most "
                f"{rules.max_length} (counted by {count.name})"
            )
            yield warning(row.line, "too_long", message)


def lopsided(material: Material) -> Iterator[Finding]:
    """A pair of which one answer has over three times the words of the other."""
    for pair in material.pairs:
        lengths = {"chosen": words(pair.chosen), "rejected": words(pair.rejected)}
        longer = max(lengths, key=lambda name: lengths[name])
        if lengths[longer] > LOPSIDED * min(lengths.values()):
            message = f"{longer} has {lengths[longer]} words, the other answer {min(lengths.values())}"
            yield warning(pair.line, "lopsided", message)


def strata_missing(material: Material) -> Iterator[Finding]:
    """A label that rows do not give."""
    for key in material.rules.labels:
        lines = [row.line for row in material.rows if getattr(row, key) is None]
        if lines:
            message = f"{key} is missing in {len(lines)} of {len(material.rows)} rows, first in line {lines[0]}"
            yield warning(None, "strata_missing", message)


def strata_unbalanced(material: Material) -> Iterator[Finding]:
    """A stratum with a value that over three times as many rows have as another; a domain held out need not balance."""
    trained = [domain for domain in material.rules.domains if domain not in material.rules.held_out_domains]
    for key, allowed in zip(STRATA, (trained or material.rules.domains, COMPLEXITIES, SUBTLETIES), strict=True):
        counts = Counter(dict.fromkeys(allowed, 0))
        counts.update(value for row in material.rows if (value := getattr(row, key)) in allowed)
        most, fewest = max(counts, key=lambda v: counts[v]), min(counts, key=lambda v: counts[v])
        if counts[most] > UNBALANCED * counts[fewest]:
            message = f"{key}: {counts[most]} rows are {most}, only {counts[fewest]} are {fewest}"
            yield warning(None, "strata_unbalanced", message)


Check = Callable[[Material], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    duplicate_prompts,
    shared_prompts,
    near_duplicates,
    labels_in_text,
    length_gives_away,
    markers_give_away,
    cut_by_max_length,
    lopsided,
    strata_missing,
    strata_unbalanced,
)
