"""What an adapter_config.json may say: the settings of a plain LoRA adapter, checked before PEFT reads them.

Others write these files. What would make PEFT import a module, change the base model, match names by patterns of theirs
or ask for more memory than a LoRA adapter has any use for is refused. Knows no weights, and imports no torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phasegpt.base_model import ModelError
from phasegpt.config_errors import one_line
from phasegpt.files import read_json

ADAPTER_CONFIG = "adapter_config.json"
MOST = 4096
"""The highest rank: above the width of most models a low rank is none."""

HARMLESS = ("peft_version", "revision", "inference_mode", "megatron_core", "qalora_group_size", "task_type")
"""Settings that are never empty and change nothing where those that they belong to are."""

Name = Annotated[str, Field(pattern=r"^[\w.\-]+$")]
Rank = Annotated[int, Field(ge=1, le=MOST)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class PlainLora(BaseModel):
    """The settings that a plain LoRA adapter may have; names of modules are names, never patterns."""

    model_config = ConfigDict(extra="allow", strict=True)

    peft_type: Literal["LORA"]
    base_model_name_or_path: str | None = None
    r: Rank = 8
    lora_alpha: Number = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    target_modules: list[Name]
    exclude_modules: list[Name] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Name | list[Name] | None = None
    rank_pattern: dict[Name, Rank] = {}
    alpha_pattern: dict[Name, Number] = {}
    bias: Literal["none"] = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    init_lora_weights: bool | Literal["gaussian"] = True


def read_plain_lora(folder: Path) -> PlainLora:
    """The settings of the adapter in a folder. Raises ModelError, in one line, for those of another kind."""
    file = folder / ADAPTER_CONFIG
    try:
        settings: Any = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{file}: expected an object, found {type(settings).__name__}")
    if settings.get("peft_type") != "LORA":
        kind = one_line(str(settings.get("peft_type")))[:60]
        raise ModelError(f"{folder} holds a {kind} adapter; only LORA is supported")
    odd = [key for key, value in settings.items() if value and key not in (*PlainLora.model_fields, *HARMLESS)]
    if odd:
        named = one_line(", ".join(odd))[:200]
        raise ModelError(f"{folder} is no plain LoRA adapter: {named} is set in {ADAPTER_CONFIG}")
    try:
        return PlainLora.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, found = ".".join(map(str, first["loc"]))[:200], f"{first['input']!r:.60}"
        raise ModelError(one_line(f"{file}: {place}: {first['msg']}, found {found}")) from error
