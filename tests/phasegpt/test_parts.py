"""From a config to the parts of a run: what stops it before anything is trained."""

from pathlib import Path

import pytest

from phasegpt import parts
from phasegpt.base_model import ModelError
from phasegpt.bundled import BundledModelError
from phasegpt.config_io import load_config, track_config
from phasegpt.parts import RunError, Workbench, suite_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "prose.txt gives 0 of at most 100 tokens .* give more"), (b"caf\xe9", "prose.txt is not UTF-8 at byte 3")],
)
def test_prose_that_gives_no_perplexity_stops_a_run_with_the_file_and_the_cure(
    content: bytes, said: str, toy_sets: list[str], tmp_path: Path
) -> None:
    (tmp_path / "prose.txt").write_bytes(content)
    config = load_config(track_config("b"), "laptop", [*toy_sets, f"evaluation.fluency_text={tmp_path / 'prose.txt'}"])
    with pytest.raises(RunError, match=f"evaluation.fluency_text: .*{said}"):
        suite_of(config, Workbench().base(config), {}, "search")


def test_a_metric_whose_judge_cannot_be_had_stops_a_run_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, toy_sets: list[str]
) -> None:
    def away() -> None:
        raise BundledModelError("no package index")

    monkeypatch.setattr(parts, "ensure_bundled", away)
    config = load_config(track_config("b"), "laptop", toy_sets)
    bench = Workbench()
    with pytest.raises(ModelError, match=r"spiral_score and subtlety ask .* no package index.* spiral_lexical does"):
        suite_of(config, bench.base(config), {}, "search")
    sets = [*toy_sets, "evaluation.metrics=[spiral_lexical]", "evaluation.metric_for_best_model=spiral_lexical"]
    objectives = ["search.objectives={spiral_lexical: max}", "search.constraints={}"]
    without = load_config(track_config("b"), "laptop", [*sets, *objectives])
    assert suite_of(without, bench.base(without), {}, "search").metrics == ("spiral_lexical",)
