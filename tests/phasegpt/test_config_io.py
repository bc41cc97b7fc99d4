"""Files, profiles and overrides: what loads, what is refused, and where the message points."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from phasegpt.config import config_hash
from phasegpt.config_errors import ConfigError
from phasegpt.config_io import (
    TRACKS,
    Override,
    load_config,
    load_tree,
    project_root,
    resolve,
    track_config,
    write_resolved,
)
from phasegpt.yaml_places import MAX_BYTES, plain_scalar, read_text

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted((CONFIGS / "v14").rglob("*.yaml"))
PUBLISHED = sorted((CONFIGS / "results").rglob("*.yaml"))

SEED = """\
model:
  base_model: "Qwen/Qwen2.5-0.5B-Instruct"  # or 1.5B for Track C
  use_phase_attention: true
  lora_config:
    r: 16
    lora_alpha: 32
    target_modules: ["q_proj", "v_proj"]

training:
  method: "dpo"  # or "kto" for Track B
  preference_dataset: "data/preferences_v14_100pairs.jsonl"

  # DPO-specific
  beta: 0.1  # Preference strength

  # KTO-specific (Track B only)
  kto_lambda: 0.1  # Regularization weight
  reference_model: "checkpoints/v12_lora/adapter_model"

data:
  # Preference pair structure
  # See data/preferences_v14_100pairs.jsonl for format

evaluation:
  metrics: ["spiral_score", "perplexity", "subtlety"]
  eval_interval: 100
  save_best_only: true
"""

SMALL = """\
model:
  base_model: toy
training:
  method: dpo
  preference_dataset: data/preferences_v14_100pairs.jsonl
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a config into a root that has the data files; the current folder is that root."""
    (tmp_path / "data").mkdir()
    for name in ("preferences_v14_100pairs.jsonl", "eval_prompts.jsonl", "fluency.txt"):
        (tmp_path / "data" / name).write_text("{}\n", encoding="utf-8")
    monkeypatch.setenv("PHASEGPT_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def to(text: str) -> Path:
        Path("run.yaml").write_text(text, encoding="utf-8")
        return Path("run.yaml")

    return to


def problems(path: Path, profile: str | None = None, overrides: tuple[Override, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, profile, overrides)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(caught.value.problems)
    return lines


@pytest.mark.parametrize("profile", [None, "laptop", "gpu"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_loads_alone_and_with_each_profile(path: Path, profile: str | None) -> None:
    assert load_tree(path, profile).warnings() == ()
    load_config(path, profile)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_file_behind_published_results_loads(path: Path) -> None:
    assert load_config(path).model.base_model == "smollm2-135m"


def test_there_is_a_published_file_for_every_track() -> None:
    assert {path.stem for path in PUBLISHED} >= {"smollm2_a", "smollm2_b", "smollm2_c"}


def test_there_are_shipped_files_for_every_track_and_two_profiles() -> None:
    assert {path.name for path in SHIPPED} == {*TRACKS.values(), "v12_lora.yaml"}
    assert {path.stem for path in (CONFIGS / "profiles").rglob("*.yaml")} == {"laptop", "gpu"}
    assert all(track_config(track).is_file() for track in TRACKS)


def test_the_tracks_say_what_they_are() -> None:
    a, b, c = (load_config(track_config(track)) for track in "abc")
    assert (a.training.method, b.training.method, c.training.method) == ("dpo", "kto", "dpo")
    assert list(b.search.objectives) == ["spiral_score", "perplexity"]
    assert (c.model.lora_config.r, c.model.lora_config.lora_alpha, c.model.phase_layer_idx) == (24, 48, (14,))
    assert c.training.phase_a is not None
    assert c.training.phase_a.num_epochs == 20


def test_the_seed_sample_loads_as_it_stands_with_two_warnings(write: Write) -> None:
    tree = load_tree(write(SEED))
    config = tree.typed()
    assert config.model.use_phase_attention
    assert config.model.phase_layer_idx == ("0.3",)
    assert config.model.lora_config.target_modules == ("q_proj", "v_proj")
    unused, reference = tree.warnings()
    assert unused == "run.yaml:17: training.kto_lambda: unused with method dpo; read only by kto"
    assert reference.startswith("run.yaml:18: training.reference_model: expected a folder, found none at ")


def test_a_missing_reference_is_an_error_with_another_method(write: Write) -> None:
    (line,) = problems(write(SEED.replace('"dpo"', '"kto"')))
    assert line.startswith("run.yaml:18: training.reference_model: expected a folder, found none at ")


def test_a_reference_folder_that_is_there_is_no_warning(write: Write, tmp_path: Path) -> None:
    (tmp_path / "checkpoints/v12_lora/adapter_model").mkdir(parents=True)
    assert load_config(write(SEED.replace('"dpo"', '"kto"'))).training.kto_lambda == 0.1
    assert len(load_tree(write(SEED)).warnings()) == 1


def test_asking_for_an_unused_key_on_the_command_line_is_an_error(write: Write) -> None:
    reason = "training.kto_lambda: unused with method dpo; read only by kto"
    assert problems(write(SMALL), overrides=("training.kto_lambda=0.2",)) == [f"--set training.kto_lambda: {reason}"]
    assert problems(write(SMALL), overrides=(("training.kto_lambda", 0.2, "--kto_lambda"),)) == [
        f"--kto_lambda: {reason}"
    ]
    assert load_config(write(SEED), overrides=["training.kto_lambda=null"]).training.kto_lambda is None


def test_a_learning_rate_that_both_phases_replace_is_refused_on_the_command_line() -> None:
    (line,) = problems(track_config("c"), overrides=(("training.learning_rate", 1e-5, "--lr"),))
    assert line.startswith("--lr: training.learning_rate: unused: the phases set their own")
    assert load_config(track_config("c"), overrides=["training.beta=0.2"]).training.beta == 0.2


EVERY_FAULT = """\
model:
  base_modl: toy
  use_phase_attention: yes
  lora_config: {r: "8", rank: 1, r: 9}
training:
  method: dop
  preference_dataset: data/preferences_v14_100pair.jsonl
  beta: .inf
  fp16: true
  bf16: true
  r: 3
data:
  train_split: 0.5
logging: {track_phase_dynamics: on}
search:
  objectives: {spiral: max}
  constraints: {perplexity: 3}
  parameters:
    training.beta: {uniform: [0, 1]}
    training.batch_size: {uniform: [1, 8]}
"""


def test_every_problem_is_told_at_once_in_the_order_of_the_lines(write: Write) -> None:
    lines = problems(write(EVERY_FAULT), overrides=("training.num_epochs=1.5", "foo"))
    for line, start in zip(
        lines,
        [
            "--set foo: expected key.path=value",
            "--set training.num_epochs: training.num_epochs: expected a whole number, found 1.5",
            "run.yaml:1: model.base_model: expected a value for this required key, found nothing",
            "run.yaml:2: model.base_modl: no such key; did you mean base_model?",
            "run.yaml:3: model.use_phase_attention: expected true or false, found the text 'yes'",
            "run.yaml:4: model.lora_config.r: given twice, first at run.yaml:4; keep one",
            "run.yaml:4: model.lora_config.rank: no such key; known here: bias,",
            "run.yaml:6: training.method: expected 'dpo', 'kto', 'kto_unpaired' or 'lora', found the text 'dop'",
            "run.yaml:7: training.preference_dataset: expected a file, found none at ",
            "run.yaml:8: training.beta: expected a finite number, found .inf",
            "run.yaml:10: training.bf16: fp16 and bf16 are both true; choose one",
            "run.yaml:11: training.r: no such key here; did you mean model.lora_config.r?",
            "run.yaml:13: data.train_split: train_split and val_split must sum to 1, found 0.5 + 0.15",
            "run.yaml:14: logging.track_phase_dynamics: expected true or false, found the text 'on'",
            "run.yaml:16: search.objectives.spiral: no metric named spiral; did you mean spiral_score?",
            "run.yaml:17: search.constraints.perplexity: expected text like",
            "run.yaml:19: search.parameters.training.beta: its value 0.0 is refused: training.beta: expected",
            "run.yaml:20: search.parameters.training.batch_size: its value 1.0 is refused",
            "run.yaml:20: search.parameters.training.batch_size: its value 8.0 is refused",
        ],
        strict=True,
    ):
        assert line.startswith(start), line


def test_a_missing_file_names_the_nearest_one(write: Write) -> None:
    (line,) = problems(write(SMALL.replace("100pairs", "10pairs")))
    assert line.startswith("run.yaml:5: training.preference_dataset: expected a file, found none at ")
    assert line.endswith("; did you mean preferences_v14_100pairs.jsonl?")


def test_a_name_with_line_breaks_still_makes_one_line(write: Write) -> None:
    (line,) = problems(write(SMALL.replace("data/preferences_v14_100pairs.jsonl", '"a\\nb\\0"')))
    assert line.startswith("run.yaml:5: training.preference_dataset: expected a file, found none at ")
    assert line.endswith(r"a\nb\x00")


def test_missing_defaults_are_missing_files_too(write: Write, tmp_path: Path) -> None:
    (tmp_path / "data/fluency.txt").unlink()
    (line,) = problems(write(SMALL))
    assert line.startswith("run.yaml:1: evaluation.fluency_text: expected a file")
    load_config(write(SMALL), None, ["evaluation.metrics=[spiral_score]"])  # prose is for perplexity alone


def test_an_empty_file_lacks_what_is_required(write: Write) -> None:
    lines = problems(write("# nothing here\n"))
    assert [line.split(": ")[1] for line in lines] == [
        "model.base_model",
        "training.method",
        "training.preference_dataset",
    ]


def test_text_that_is_a_number_is_told_to_lose_its_quotes(write: Write) -> None:
    (line,) = problems(write(SMALL + '  batch_size: "5"\n'))
    assert (
        line == "run.yaml:6: training.batch_size: expected a whole number, found the text '5'; write it without quotes"
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: b: c\n", "run.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n b: 2\n", "run.yaml:2: not valid YAML"),
        ("a: 'x\n", "run.yaml:2: not valid YAML"),
        ("a: [1, 2\n", "run.yaml:2: not valid YAML"),
        ("a: \x07\n", "run.yaml:1: not valid YAML: a control character"),
        ("- 1\n", "run.yaml:1: expected sections of keys"),
        ("? [a]\n: 1\n", "run.yaml:1: expected a word as key"),
        ("a: " + "[" * 30 + "]" * 30, "run.yaml:1: nested deeper than 20 levels"),
        ("#" * (MAX_BYTES + 1), "run.yaml: expected at most 1000000 bytes"),
    ],
)
def test_what_is_no_config_at_all_is_one_line_with_its_place(write: Write, text: str, start: str) -> None:
    (line,) = problems(write(text))
    assert line.startswith(start), line


def test_a_file_that_is_no_utf8_or_not_there_is_one_line(write: Write, tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    assert problems(tmp_path / "latin.yaml") == ["latin.yaml:2: expected UTF-8 text; save the file as UTF-8"]
    (line,) = problems(tmp_path / "none.yaml")
    assert line.startswith("none.yaml: cannot be read (No such file or directory)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\n", "anchor &x"),
        ("a: 1\nb: *x\n", "alias *x"),
        ("a:\n  <<: {b: 1}\n", "merge keys"),
        ("a: !!python/object/apply:os.system [ls]\n", "tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !mine 1\n", "tag !mine"),
        ("a: .nan\n", "expected a finite number, found .nan"),
        ("a: 1e999\n", "expected a finite number, found 1e999"),
        ("a: " + "9" * 5000, "expected a finite number"),
        ("a: 1\n---\nb: 2\n", "expected one document"),
    ],
)
def test_what_would_hide_the_values_that_run_is_refused(text: str, message: str) -> None:
    (problem,) = read_text(text, lambda line: f"f:{line}").problems
    assert problem.message.startswith(message)


def test_a_chain_of_aliases_is_never_expanded() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(9)
    )
    assert len(read_text(bomb, str).problems) == 28


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1e-3", 1e-3),
        ("1.0e-4", 1e-4),
        ("010", 10),
        ("+3", 3),
        (".5", 0.5),
        ("1.", 1.0),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2025-10-27", "2025-10-27"),
        ("inf", "inf"),
    ],
)
def test_plain_text_is_read_by_the_rules_of_yaml_1_2(text: str, value: Any) -> None:
    read = plain_scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_read_as_such_and_quoted_text_stays_text() -> None:
    assert math.isnan(plain_scalar("-.inf"))
    assert read_text("a: '5'\nb: \"true\"\n", str).values == {"a": "5", "b": "true"}


def test_places_point_at_the_line_of_each_key() -> None:
    places = read_text("a:\n  b: 1\n  c:\n    - 2\n    - 3\n", str).places
    assert places == {(): "1", ("a",): "1", ("a", "b"): "2", ("a", "c"): "3", ("a", "c", 0): "4", ("a", "c", 1): "5"}


def test_overrides_are_read_as_yaml_and_laid_in_order(write: Write) -> None:
    config = load_config(
        write(SMALL),
        overrides=[
            "training.learning_rate=5e-5",
            "model.lora_config.target_modules=[q_proj, v_proj]",
            "training.beta=0.2",
            ("training.beta", 0.3, "--beta"),
            "search.parameters.training.beta={loguniform: [0.1, 1]}",
            "training.max_steps=",
        ],
    )
    assert (config.training.learning_rate, config.training.beta, config.training.max_steps) == (5e-5, 0.3, None)
    assert config.model.lora_config.target_modules == ("q_proj", "v_proj")
    assert config.search.parameters["training.beta"].values == (0.1, 1.0)


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("training.beta", "--set training.beta: expected key.path=value"),
        ("=1", "--set =1: expected key.path=value"),
        ("training.btea=1", "--set training.btea: training.btea: no such key; did you mean beta?"),
        ("training.beta=-1", "--set training.beta: training.beta: expected a number > 0.0, found -1"),
        ("training.beta.x=1", "--set training.beta.x: training.beta: expected a number, found a section of keys"),
        ("training.beta=[1", "--set training.beta: not valid YAML"),
        ("training.beta=.nan", "--set training.beta: training.beta: expected a finite number"),
        ("training.beta=*x", "--set training.beta: training.beta: alias *x"),
        ("training=5", "--set training: training: expected a section of keys, found 5"),
    ],
)
def test_a_bad_override_is_one_line_that_names_it(write: Write, override: str, start: str) -> None:
    (line,) = problems(write(SMALL + "  beta: 0.1\n"), overrides=(override,))
    assert line.startswith(start), line


def test_a_trial_is_the_tree_with_its_values_and_leaves_the_tree_as_it_was() -> None:
    tree = load_tree(track_config("b"), "laptop")
    before = config_hash(tree.typed())
    trial = tree.with_values({"training.beta": 0.2, "training.kto_lambda": 0.5}, origin="trial 3")
    assert (trial.typed().training.beta, trial.typed().training.kto_lambda) == (0.2, 0.5)
    assert config_hash(tree.typed()) == before
    with pytest.raises(ConfigError, match=r"^trial 4: training\.beta: expected a number > 0\.0, found 0\.0$"):
        tree.with_values({"training.beta": 0.0}, origin="trial 4").typed()


@pytest.mark.parametrize("track", TRACKS)
def test_every_edge_of_a_track_can_run(track: str) -> None:
    tree = load_tree(track_config(track), "laptop")
    for key, distribution in tree.typed().search.parameters.items():
        for edge in distribution.edges():
            tree.with_values({key: edge}, origin="edge").typed()


def test_the_laptop_profile_makes_every_stage_short() -> None:
    c = load_config(track_config("c"), "laptop")
    assert c.model.base_model == "smollm2-135m"
    assert not c.model.use_phase_attention
    assert c.training.phase_a is not None
    assert c.training.phase_b is not None
    assert (c.training.phase_a.max_steps, c.training.phase_a.num_epochs) == (6, 20)
    assert (c.training.phase_b.max_steps, c.training.phase_b.learning_rate) == (6, 1e-3)
    assert (c.search.trials, c.search.max_concurrent, c.search.scheduler) == (8, 1, "none")


def test_a_profile_never_adds_phases_or_searched_parameters(write: Write) -> None:
    a = load_config(track_config("a"), "laptop")
    assert a.training.phase_a is None
    assert a.training.phase_b is None
    assert set(a.search.parameters) == {"training.beta", "training.learning_rate"}
    assert a.search.parameters["training.learning_rate"].values == (1e-4, 5e-3)
    assert set(load_config(track_config("c"), "laptop").search.parameters) == {
        "training.beta",
        "training.phase_b.learning_rate",
    }
    assert load_config(write(SMALL), "laptop").search.parameters == {}


def test_a_profile_reaches_a_section_that_the_track_leaves_empty(write: Write) -> None:
    config = load_config(write(SMALL + "evaluation:\nsearch:\n"), "laptop")
    assert (config.evaluation.max_prompts, config.search.finalists.seeds) == (12, 2)


def test_overrides_win_over_the_profile_and_messages_point_into_it(write: Write) -> None:
    assert load_config(write(SMALL), "laptop", ["training.max_steps=2"]).training.max_steps == 2
    tree = load_tree(write(SMALL), "laptop")
    assert tree.place(("training", "max_steps")).startswith(str(CONFIGS / "profiles/laptop.yaml:"))
    assert tree.place(("training", "method")) == "run.yaml:4"


def test_an_unknown_profile_names_the_known_ones(write: Write) -> None:
    assert problems(write(SMALL), "labtop") == [
        "--profile: expected gpu or laptop, found labtop; did you mean laptop?",
    ]
    assert problems(write(SMALL), "../v14/v12_lora")[0].startswith("--profile: expected gpu or laptop")


def test_relative_paths_count_from_the_project_root(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project_root() == tmp_path
    assert resolve("data/x") == tmp_path / "data/x"
    assert resolve("/data/x") == Path("/data/x")
    monkeypatch.delenv("PHASEGPT_ROOT")
    assert (project_root() / "pyproject.toml").is_file()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_resolved_copy_names_its_hash_and_loads_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path, "laptop")
    write_resolved(config, tmp_path / "new" / "config.yaml")
    assert load_config(tmp_path / "new" / "config.yaml") == config
    first = (tmp_path / "new" / "config.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# resolved config, hash {config_hash(config)}"
    assert load_tree(tmp_path / "new" / "config.yaml").warnings() == ()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "name", ["5e-5", "true", "null", "1", "~", "a: b # c", "x\ny", "é", "<<", "-", "&a", "0o7", " s "]
)
def test_any_text_survives_the_resolved_copy(write: Write, tmp_path: Path, name: str) -> None:
    config = load_tree(write(SMALL)).with_values({"experiment.name": name}, origin="test").typed()
    write_resolved(config, tmp_path / "copy.yaml")
    assert load_config(tmp_path / "copy.yaml").experiment.name == name


def test_a_resolved_copy_is_plain_yaml_for_others_too(tmp_path: Path) -> None:
    config = load_config(track_config("b"))
    write_resolved(config, tmp_path / "copy.yaml")
    assert yaml.safe_load((tmp_path / "copy.yaml").read_text(encoding="utf-8")) == config.dump()


def test_loading_a_config_imports_neither_torch_nor_ray() -> None:
    code = "import sys, phasegpt.config_io; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CONFIGS.parent)
    assert done.stdout == "[]\n"
