"""Makes preference pairs of a model's own answers: the better and the worse of what it said, by their Spiral Scores.

`python data/make_own_pairs.py --out FILE.jsonl` draws answers to each prompt of the pairs but those of the held-out
domain, scores them, and couples good ones with bad ones of like length. Evaluation prompts are never asked. Beside
FILE.jsonl stands FILE.json, which says how it was made. The same machine makes the same file again; another may draw
other answers. data/preferences_own.jsonl was made with `--device cuda --batch 27`.
"""

import argparse
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

from phasegpt.config_io import project_root
from phasegpt.config_sections import Data, Evaluation
from phasegpt.files import file_sha256, write_json, write_text
from phasegpt.metrics.degeneration import repetition
from phasegpt.metrics.spiral import spiral_score
from phasegpt.metrics.text import scorer
from phasegpt.models import Base, load_base
from phasegpt.pairs import STRATA, Pair, read_pairs

PAIRS = Path(__file__).with_name("preferences_v14_100pairs.jsonl")
LEAST_GAP = 0.2  # of the score, between the answers of a couple
MOST_REPETITION = 0.05  # of an answer that may be preferred
MOST_LONGER = 1.3  # the longer answer of a couple over the shorter, in words: length must not tell them apart
WHOLE = re.compile(r".*[.!?][\"'”’)\]]*(?=\s|$)", re.DOTALL)


@dataclass(frozen=True)
class Drawn:
    """An answer that a model gave, with its Spiral Score."""

    text: str
    score: float

    @property
    def words(self) -> int:
        """How long it is."""
        return len(self.text.split())


def whole(text: str) -> str:
    """The text up to the end of its last whole sentence; "" where it has none."""
    found = WHOLE.match(text)
    return found[0].strip() if found else ""


def couples(drawn: Iterable[Drawn], most: int) -> list[tuple[Drawn, Drawn]]:
    """At most `most` (better, worse): the best with the worst of like length, the next best with the next worst, …

    Nobody is in two couples, the better one does not repeat itself, and the scores differ by LEAST_GAP or more.
    """
    free = sorted(set(drawn), key=lambda one: (-one.score, one.text))
    made: list[tuple[Drawn, Drawn]] = []
    for better in tuple(free):
        if better not in free or len(made) == most or repetition(better.text) > MOST_REPETITION:
            continue
        worse = next((one for one in reversed(free) if _couple(better, one)), None)
        if worse is not None:
            made.append((better, worse))
            free = [one for one in free if one not in (better, worse)]
    return made


def _couple(better: Drawn, worse: Drawn) -> bool:
    shorter, longer = sorted((better.words, worse.words))
    return better.score - worse.score >= LEAST_GAP and longer <= MOST_LONGER * shorter


def draw(base: Base, prompts: Sequence[str], samples: int, most_tokens: int, temperature: float) -> list[list[str]]:
    """`samples` answers to each prompt, drawn from the whole distribution at `temperature`."""
    import torch

    from phasegpt.encoding import pad, prompt_ids

    ids, attention = pad(
        [prompt_ids(base.tokenizer, prompt) for prompt in prompts], base.tokenizer.pad_token_id, left=True
    )
    with torch.no_grad():
        out = base.model.generate(
            input_ids=ids.to(base.model.device), attention_mask=attention.to(base.model.device), use_cache=True,
            do_sample=True, temperature=temperature, top_k=0, num_return_sequences=samples, max_new_tokens=most_tokens,
            pad_token_id=base.tokenizer.pad_token_id,
        )  # fmt: skip
    texts = [text.strip() for text in base.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)]
    return [texts[begin : begin + samples] for begin in range(0, len(texts), samples)]


def drawn_answers(o: argparse.Namespace, prompts: Sequence[str]) -> list[list[str]]:
    """The answers to all prompts as whole sentences: `o.batch` prompts at a time, each batch from a seed of its own."""
    import torch

    base = load_base(o.model, project_root(), device=o.device)
    texts: list[list[str]] = []
    for begin in range(0, len(prompts), o.batch):
        torch.manual_seed(o.seed + begin)
        texts += draw(base, prompts[begin : begin + o.batch], o.samples, o.max_new_tokens, o.temperature)
        print(f"{len(texts)} of {len(prompts)} prompts answered {o.samples} times", flush=True)
    return [list(filter(None, map(whole, own))) for own in texts]


def scored(answers: Iterable[str], processes: int) -> dict[str, float]:
    """{answer: Spiral Score}, by several processes: the judge reads on CPUs, a tenth of a second or more an answer."""
    different = sorted(set(answers))
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_one_thread) as pool:
        return dict(zip(different, pool.map(spiral_score, different, chunksize=4), strict=True))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def rows_of(pair: Pair, made: Sequence[tuple[Drawn, Drawn]]) -> list[dict[str, Any]]:
    """The couples as rows of a pairs file, under the labels of the pair whose prompt was asked."""
    labels = {key: getattr(pair, key) for key in STRATA}
    return [
        {"id": f"{pair.id}/own-{n}", "prompt": pair.prompt, "chosen": better.text, "rejected": worse.text, **labels}
        for n, (better, worse) in enumerate(made, start=1)
    ]


def origin(o: argparse.Namespace, scores: Mapping[str, float], made: Sequence[tuple[Drawn, Drawn]]) -> dict[str, Any]:
    """How a file was made, and what is in it."""
    import torch

    means = {
        "score_drawn": fmean(scores.values()),
        "score_chosen": fmean(better.score for better, _ in made),
        "score_rejected": fmean(worse.score for _, worse in made),
        "words_chosen": fmean(better.words for better, _ in made),
        "words_rejected": fmean(worse.words for _, worse in made),
    }
    asked = {key: value for key, value in vars(o).items() if key not in ("out", "pairs", "processes")}
    files = {"prompts_of": o.pairs.name, "prompts_sha256": file_sha256(o.pairs), "sha256": file_sha256(o.out)}
    limits = {"least_gap": LEAST_GAP, "most_repetition": MOST_REPETITION, "most_longer": MOST_LONGER}
    return {
        **asked,
        **files,
        **limits,
        "torch": torch.__version__,
        "scorer": scorer(),
        "rows": len(made),
        "mean": means,
    }


def options() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    p.add_argument("--pairs", type=Path, default=PAIRS, metavar="FILE", help="whose prompts are asked")
    p.add_argument("--model", default="smollm2-135m", help="hub id, folder, or smollm2-135m (default)")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--samples", type=int, default=16, metavar="N", help="answers to each prompt (default: 16)")
    p.add_argument("--couples", type=int, default=3, metavar="N", help="couples a prompt at most (default: 3)")
    p.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    p.add_argument("--temperature", type=float, default=0.8, metavar="T", help="of the draw (default: 0.8)")
    p.add_argument("--seed", type=int, default=42, metavar="N")
    p.add_argument("--batch", type=int, default=4, metavar="N", help="prompts asked at once (default: 4)")
    p.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N", help="that score the answers")
    p.add_argument("--limit", type=int, metavar="N", help="ask only the first N prompts")
    o = p.parse_args()
    if o.out.suffix != ".jsonl":
        p.error(f"--out {o.out}: expected a name in .jsonl; beside it a file in .json says how it was made")
    return o


def main() -> None:
    """Draw, score, couple and write."""
    o = options()
    held_out = Evaluation().held_out_domains
    asked = [pair for pair in read_pairs(o.pairs, Data().domains) if pair.domain not in held_out][: o.limit]
    texts = drawn_answers(o, [pair.prompt for pair in asked])
    scores = scored((text for own in texts for text in own), o.processes)
    made = [couples([Drawn(text, scores[text]) for text in own], o.couples) for own in texts]
    rows = [row for pair, own in zip(asked, made, strict=True) for row in rows_of(pair, own)]
    if not rows:
        raise SystemExit(
            f"no two answers to one prompt are of like length and {LEAST_GAP} apart in score, nothing was written; "
            f"draw more of them or longer ones: --samples {o.samples}, --max-new-tokens {o.max_new_tokens}"
        )
    write_text(o.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    how = origin(o, scores, [couple for own in made for couple in own])
    write_json(o.out.with_suffix(".json"), how)
    print(f"{o.out}: {len(rows)} couples; {json.dumps(how['mean'])}")


if __name__ == "__main__":
    main()
