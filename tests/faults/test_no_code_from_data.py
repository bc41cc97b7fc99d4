"""No file that a run, a search or a command reads makes it run code: what the source says, and what hostile files do.

A canary is a file that the code in a hostile file would make. It must never sing.
"""

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegpt.adapters import ADAPTER_CONFIG, ADAPTER_FILE, BASE_RECORD, PHASE_FILE, PHASE_SETTINGS
from phasegpt.base_model import ModelError
from phasegpt.checkpoint_files import seal
from phasegpt.checkpoints import open_checkpoint
from phasegpt.models import Base, LoraSettings, attach_policy, load_base, load_policy
from phasegpt.objectives import Dpo
from phasegpt.pairs import read_pairs
from tests.phasegpt.test_trainer import fresh_run
from tests.toy import DOMAINS
from tune.served import _load_pyfunc

ROOT = Path(__file__).parents[2]
PACKAGES = ("phasegpt", "tune", "cluster")
IMPORTS_BY_NAME = {"phasegpt/metrics/own.py"}
"""Where a name that the user wrote into the config is imported; terms.py sees that none comes from a checkpoint."""

NEVER_CALLED = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads",
    "shelve.open", "pandas.read_pickle", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all",
    "mlflow.pyfunc.load_model", "pyfunc.load_model", "Tuner.restore", "tune.Tuner.restore", "runpy.run_path",
    "zipfile.extractall", "tarfile.open", "torch.jit.load", "torch.hub.load",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


# --- what the source says --------------------------------------------------------------------------------------------


def sources() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the packages, with the file that it stands in."""
    files = [ROOT / "train.py", *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(file.relative_to(ROOT)), node


def faults_of(file: str, call: ast.Call) -> list[str]:
    """What is wrong with a call, in words."""
    name, words = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
    owner, _, last = name.rpartition(".")
    wrong = {
        "is never to be called": name in NEVER_CALLED or last == "extractall",
        "needs weights_only=True": name == "torch.load" and words.get("weights_only") != "True",
        "needs trust_remote_code=False": owner.startswith("Auto")
        and last == "from_pretrained"
        and words.get("trust_remote_code") != "False",
        "may not trust remote code": words.get("trust_remote_code", "False") != "False",
        "may not allow pickle": words.get("allow_pickle", "False") != "False",
        "may not use a shell": words.get("shell", "False") != "False",
        "imports by a name": last == "import_module" and file not in IMPORTS_BY_NAME,
    }
    return [f"{file}:{call.lineno}: {name} {what}" for what, is_so in wrong.items() if is_so]


def test_no_call_in_the_packages_runs_code_out_of_data() -> None:
    found = list(sources())
    assert len(found) > 5000
    assert [fault for file, call in found for fault in faults_of(file, call)] == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModelForCausalLM.from_pretrained(folder)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pickle.loads(data)",
        "archive.extractall(folder)",
        "importlib.import_module(name)",
        "subprocess.run(line, shell=True)",
        "mlflow.pyfunc.load_model(uri)",
    ],
)
def test_a_call_that_would_is_found(line: str) -> None:
    call = ast.parse(line).body[0].value  # type: ignore[attr-defined]
    assert faults_of("phasegpt/new.py", call)


# --- what hostile files do -------------------------------------------------------------------------------------------


class Canary:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Where the canary would sing; it is looked for after each test."""
    file = tmp_path / "canary"
    yield file
    assert not file.exists(), "a hostile file ran code"


def plant(file: Path, canary: Path) -> None:
    """A file in torch's own format whose loading would run code."""
    torch.save({"state": Canary(canary)}, file)


CODE = "from pathlib import Path\nPath({!r}).touch()\n\n\nclass Own:\n    pass\n"


def test_the_canary_sings_where_pickle_is_let_loose(tmp_path: Path) -> None:
    plant(tmp_path / "x.pt", tmp_path / "sang")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "sang").exists()


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"))


@pytest.fixture
def adapter(base: Base, tmp_path: Path) -> Path:
    policy = attach_policy(base, LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj",)), seed=0)
    policy.save(tmp_path / "adapter")
    policy.detach()
    return tmp_path / "adapter"


def with_settings(folder: Path, **settings: Any) -> None:
    file = folder / ADAPTER_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_pickled_weights_beside_an_adapter_are_not_read(base: Base, adapter: Path, canary: Path) -> None:
    for name in ("adapter_model.bin", "training_args.bin", "optimizer.pt"):
        plant(adapter / name, canary)
    load_policy(base, adapter).detach()
    (adapter / ADAPTER_FILE).unlink()
    with pytest.raises(ModelError, match="is no adapter"):
        load_policy(base, adapter)


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_mapping": {"base_model_class": "Own", "parent_library": "evil"}},
        {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["x"]},
        {"eva_config": {"rho": 2}},
        {"layer_replication": [[0, 4], [2, 4]]},
        {"use_dora": True},
        {"some_key_of_the_future": True},
        {"init_lora_weights": "pissa"},
        {"target_modules": "(a+)+$"},
        {"target_modules": ["(a+)+$"]},
        {"rank_pattern": {"(a+)+$": 4}},
        {"r": 10**9},
        {"r": True},
        {"lora_alpha": float("nan")},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"base_model_name_or_path": 7},
    ],
    ids=", ".join,
)
def test_an_adapter_that_is_more_than_lora_is_refused(base: Base, adapter: Path, settings: dict[str, Any]) -> None:
    with_settings(adapter, **settings)
    with pytest.raises(ModelError) as error:
        load_policy(base, adapter)
    assert "\n" not in str(error.value)
    assert str(adapter) in str(error.value)


@pytest.mark.parametrize("content", ["[1]", '{"address": 1}', "{", "[" * 5000])
@pytest.mark.parametrize("name", [BASE_RECORD, ADAPTER_CONFIG])
def test_a_damaged_adapter_folder_is_refused(base: Base, adapter: Path, name: str, content: str) -> None:
    (adapter / name).write_text(content)
    with pytest.raises(ModelError):
        load_policy(base, adapter)


@pytest.mark.parametrize("settings", ["[]", "{}", '{"layers": 1}', "{"])
def test_a_damaged_phase_branch_is_refused(base: Base, adapter: Path, settings: str) -> None:
    (adapter / PHASE_FILE).write_bytes(b"no tensors")
    (adapter / PHASE_SETTINGS).write_text(settings)
    with pytest.raises(ModelError, match="the phase branch is damaged"):
        load_policy(base, adapter)


def test_an_adapter_of_another_model_is_refused(base: Base, adapter: Path) -> None:
    with_settings(adapter, base_model_name_or_path="evil/other-model")
    with pytest.raises(ModelError, match=r"made for the base model evil/other-model, not for"):
        load_policy(base, adapter)


@pytest.fixture
def model(toy_model_dir: Path, tmp_path: Path, canary: Path) -> Path:
    """A base model with code of its own beside it, which its config and its tokenizer ask for."""
    folder = shutil.copytree(toy_model_dir, tmp_path / "model")
    (folder / "own.py").write_text(CODE.format(str(canary)))
    plant(folder / "pytorch_model.bin", canary)
    names = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "auto_map": names}))
    return folder


def test_a_known_model_with_code_beside_it_is_loaded_without(model: Path, canary: Path) -> None:
    assert load_base(str(model), Path("/")).model.config.model_type == "qwen2"


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "own", "architectures": ["Own"]},
        {"model_type": ["qwen2"]},
        {"hidden_size": "x"},
        {"num_attention_heads": 0},
        {"vocab_size": -1},
    ],
    ids=str,
)
def test_a_model_that_needs_code_or_has_a_damaged_config_is_refused(
    model: Path, canary: Path, settings: dict[str, Any]
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        load_base(str(model), Path("/"))
    assert "\n" not in str(error.value)


def test_a_run_goes_on_from_tensors_and_numbers_alone(
    base: Base, toy_pairs_file: Path, tmp_path: Path, canary: Path
) -> None:
    pairs = read_pairs(toy_pairs_file, DOMAINS)[:7]
    fresh_run(base, pairs, tmp_path, Dpo(0.5), max_steps=1)
    checkpoint = tmp_path / "run" / "checkpoint-1"
    for name in ("rng_state.pth", "training_args.bin", "pytorch_model.bin"):
        plant(checkpoint / name, canary)
    seal(checkpoint, 1)
    assert fresh_run(base, pairs, tmp_path, Dpo(0.5), max_steps=2).steps == 2
    plant(tmp_path / "run" / "checkpoint-2" / "optimizer.pt", canary)
    seal(tmp_path / "run" / "checkpoint-2", 2)
    with pytest.raises(ValueError, match=r"checkpoint-2: optimizer\.pt or scheduler\.pt is damaged, or holds more"):
        fresh_run(base, pairs, tmp_path, Dpo(0.5), max_steps=3)


def test_a_version_of_the_registry_brings_no_code(adapter: Path, tmp_path: Path, canary: Path) -> None:
    """Laid out as MLflow keeps it, with a loader and pickles of its own beside what we wrote."""
    data = tmp_path / "version" / "data" / "phasegpt"
    shutil.copytree(adapter, data / "adapter")
    (data / "config.json").write_text(json.dumps({"evaluation": {"max_new_tokens": 2}}))
    (tmp_path / "version" / "code").mkdir()
    for place in (data, data / "adapter", tmp_path / "version" / "code"):
        (place / "own.py").write_text(CODE.format(str(canary)))
        plant(place / "python_model.pkl", canary)
    flavor = {"loader_module": "own", "python_model": "python_model.pkl", "code": "code", "data": "data/phasegpt"}
    (tmp_path / "version" / "MLmodel").write_text(json.dumps({"flavors": {"python_function": flavor}}))
    open_checkpoint(str(tmp_path / "version"), tmp_path / "work").detach()
    assert len(_load_pyfunc(str(data)).predict(["Why?"])) == 1
