"""The policy starts at the reference, comes off without a trace, and is saved as what it is."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from phasegpt import models
from phasegpt.adapters import ADAPTER_CONFIG, ADAPTER_FILE, PHASE_FILE, PhaseSettings, SavedBranch, write_branch
from phasegpt.base_model import ModelError
from phasegpt.models import (
    Base,
    LoraSettings,
    Policy,
    adapter_layers,
    attach_policy,
    attention_for,
    load_adapter,
    load_base,
    load_policy,
    load_trainable_state,
    trainable_state,
)
from phasegpt.phase_state import PhaseAttentionError

pytestmark = pytest.mark.usefixtures("one_thread")

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj"))
PHASE = PhaseSettings((1,), num_oscillators=8, coupling_strength=1.0, natural_freq=1.0, dt=0.1, n_sync_steps=3)
IDS = torch.tensor([[5, 17, 99, 3, 42, 8, 120], [7, 7, 31, 200, 1, 64, 9]])


@pytest.fixture(scope="module")
def base(toy_model_dir: Path) -> Base:
    return load_base(str(toy_model_dir), Path("/"))


@pytest.fixture(autouse=True)
def nothing_is_left_on_the_base(base: Base) -> Iterator[None]:
    """Each test gets the base bare and must leave it so."""
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    bare = logits(base.model)
    yield
    assert not any(isinstance(module, LoraLayer) for module in base.model.modules())
    assert not hasattr(base.model, "peft_config")
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(logits(base.model), bare)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


def move(policy: Policy, seed: int = 0) -> Policy:
    """Change every parameter under training, as steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    policy.model.eval()
    return policy


def saved(base: Base, folder: Path, lora: LoraSettings = LORA, phase: PhaseSettings | None = None) -> Tensor:
    """Save a trained-looking adapter to `folder`; returns its logits."""
    policy = move(attach_policy(base, lora, seed=5, phase=phase), seed=5)
    policy.save(folder)
    found = logits(policy.model)
    policy.detach()
    return found


# --- the base --------------------------------------------------------------------------------------------------------


def test_a_base_is_frozen_and_keeps_only_the_end_tokens_of_its_generation_settings(
    toy_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(toy_model_dir, tmp_path / "model")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 0], "repetition_penalty": 1.3, "do_sample": True, "temperature": 0.7})
    )
    base = load_base("model", tmp_path)
    assert (base.name, base.folder) == ("model", folder)
    settings = base.model.generation_config
    assert settings.eos_token_id == [2, 0]
    assert (settings.repetition_penalty, settings.do_sample, settings.temperature) == (None, None, None)


def test_a_base_without_a_pad_token_pads_with_its_end_token(toy_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_model_dir, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["pad_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    base = load_base(str(folder), Path("/"))
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id


def test_a_base_without_a_chat_template_is_refused(toy_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_model_dir, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template; take an instruction-tuned model"):
        load_base(str(folder), Path("/"))


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("granite", {"logits_scaling": 8.0}, r"logits_scaling 8\.0"),
        ("cohere", {}, r"logit_scale 0\.0625"),
        ("gemma3_text", {"head_dim": 8, "final_logit_softcapping": 30.0}, r"final_logit_softcapping 30\.0"),
        ("phi", {}, "a bias on the output head"),
    ],
)
def test_a_base_whose_logits_are_more_than_states_times_weights_is_refused(
    toy_model_dir: Path, tmp_path: Path, kind: str, more: dict[str, Any], said: str
) -> None:
    folder = shutil.copytree(toy_model_dir, tmp_path / "model", ignore=shutil.ignore_patterns("model.safetensors"))
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    config = AutoConfig.for_model(kind, vocab_size=300, pad_token_id=0, **sizes, **more)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(ModelError, match=f"model.base_model: {kind} makes its logits with {said}.*take one whose"):
        load_base(str(folder), Path("/"))


def test_pickled_weights_are_never_read(toy_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_model_dir, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.base_model: .* cannot be loaded"):
        load_base(str(folder), Path("/"))


# --- which layers and modules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "package", "chosen", "reason"),
    [
        ("cpu", torch.bfloat16, 9, True, "sdpa", "needs a GPU"),
        ("cuda", torch.float32, 9, True, "sdpa", "needs bf16 or fp16"),
        ("cuda", torch.float16, 7, True, "sdpa", "needs an Ampere GPU"),
        ("cuda", torch.bfloat16, 8, False, "sdpa", "flash-attn is not installed"),
        ("cuda", torch.bfloat16, 8, True, "flash_attention_2", "allow it"),
    ],
)
def test_attention_is_flash_where_gpu_precision_and_package_allow_it_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    capability: int,
    package: bool,
    chosen: str,
    reason: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (capability, 0))
    monkeypatch.setattr(models, "is_flash_attn_2_available", lambda: package)
    found, why = attention_for(dtype, device)
    assert found == chosen
    assert reason in why


def test_loading_says_in_one_line_which_attention_was_chosen(
    toy_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "phasegpt"):
        base = load_base(str(toy_model_dir), Path("/"))
    assert caplog.messages == [f"attention of {toy_model_dir}: sdpa (flash attention needs a GPU)"]
    assert base.model.config._attn_implementation == "sdpa"


def test_the_upper_third_is_the_last_third_of_the_layers_and_at_least_one() -> None:
    assert adapter_layers("upper_third", 30) == tuple(range(20, 30))
    assert adapter_layers("upper_third", 4) == (3,)
    assert adapter_layers("upper_third", 2) == (1,)
    assert adapter_layers(None, 4) is None
    assert adapter_layers((0, 3), 4) == (0, 3)


@pytest.mark.parametrize("layers", [(4,), (0, 9), (-1,), (), "lower_third"])
def test_layers_that_the_model_has_not_are_an_error(layers: Any) -> None:
    with pytest.raises(ModelError, match=r"layers_to_transform: expected upper_third or layers from 0 to 3, found"):
        adapter_layers(layers, 4)


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens"])
def test_a_target_that_cannot_be_adapted_is_an_error_that_lists_those_that_can(base: Base, target: str) -> None:
    linear = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(ModelError, match=f"this model has no {target}; it has {linear}"):
        attach_policy(base, replace(LORA, target_modules=("q_proj", target)), seed=0)


def test_biases_that_could_not_be_taken_back_are_refused(base: Base) -> None:
    with pytest.raises(ModelError, match=r"model\.lora_config\.bias: all trains what taking"):
        attach_policy(base, replace(LORA, bias="all"), seed=0)


def test_adapters_sit_on_the_asked_layers_alone(base: Base) -> None:
    policy = attach_policy(base, replace(LORA, layers="upper_third"), seed=0)
    assert {name.split(".layers.")[1].split(".")[0] for name in policy.trainable()} == {"3"}
    policy.detach()


# --- the start, and the way back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [None, PHASE], ids=["adapter", "adapter and branch"])
def test_at_the_start_the_policy_is_the_base_and_the_reference_bit_for_bit(
    base: Base, phase: PhaseSettings | None
) -> None:
    bare = logits(base.model)
    policy = attach_policy(base, replace(LORA, dropout=0.5), seed=0, phase=phase)
    assert torch.equal(logits(policy.model.train()), bare)
    with policy.as_reference():
        assert torch.equal(logits(policy.model), bare)
    policy.detach()


@pytest.mark.parametrize("phase", [None, PHASE], ids=["adapter", "adapter and branch"])
def test_after_training_the_reference_is_still_the_base(base: Base, phase: PhaseSettings | None) -> None:
    bare = logits(base.model)
    policy = move(attach_policy(base, LORA, seed=0, phase=phase))
    own = logits(policy.model)
    assert not torch.allclose(own, bare, atol=1e-2)
    with policy.as_reference():
        assert torch.equal(logits(policy.model), bare)
        assert not torch.is_grad_enabled()
    assert torch.equal(logits(policy.model), own)
    policy.detach()


def test_an_error_inside_the_reference_gives_the_policy_back(base: Base) -> None:
    policy = move(attach_policy(base, LORA, seed=0, phase=PHASE))
    own = logits(policy.model)
    policy.model.train()
    with pytest.raises(KeyError), policy.as_reference():
        raise KeyError
    assert policy.model.training
    assert torch.equal(logits(policy.model), own)
    policy.detach()


def test_the_seed_alone_draws_the_adapter(base: Base) -> None:
    def draw(seed: int, phase: PhaseSettings | None = None) -> dict[str, Tensor]:
        policy = attach_policy(base, LORA, seed, phase=phase)
        found = {name: p.detach().clone() for name, p in policy.trainable().items() if "lora_A" in name}
        policy.detach()
        return found

    state = torch.get_rng_state()
    first, again, with_branch, other = draw(1), draw(1), draw(1, PHASE), draw(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 8
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, with_branch[name])
        assert not torch.equal(value, other[name])


def test_the_adapter_and_the_branch_are_all_that_trains(base: Base) -> None:
    policy = move(attach_policy(base, LORA, seed=0, phase=PHASE))
    policy.model(input_ids=IDS).logits.square().mean().backward()
    names = policy.trainable()
    assert {name.rsplit(".", 1)[-1] for name in names if "phase_branch" in name} == {
        "phase_weight",
        "natural_freq",
        "coupling",
        "output_weight",
        "gate",
    }
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in names.values())
    assert all("lora_" in name or "phase_branch" in name for name in names)
    policy.detach()


def test_the_parameters_of_adapter_and_branch_are_counted_apart(base: Base) -> None:
    """A branch of 8 oscillators on 64 channels: W_θ 8 · 64, ω 8, K 1, W_o 64 · 16, gate 64.

    LoRA trains r · (in + out) of q (64 to 64) and of v (64 to 32) in each of four layers.
    """
    frozen = sum(p.numel() for p in base.model.parameters())
    adapter = 4 * LORA.r * (64 + 64 + 64 + 32)
    plain = attach_policy(base, LORA, seed=0)
    assert plain.parameter_counts() == {"adapter": adapter, "phase_branch": 0, "frozen": frozen}
    plain.detach()
    policy = attach_policy(base, LORA, seed=0, phase=PHASE)
    assert policy.parameter_counts() == {"adapter": adapter, "phase_branch": 512 + 8 + 1 + 1024 + 64, "frozen": frozen}
    policy.detach()


def test_many_policies_leave_no_hook(base: Base) -> None:
    for seed in range(20):
        attach_policy(base, LORA, seed).detach()
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in base.model.modules()) == 0


def test_checkpointed_activations_change_no_gradient(base: Base) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = move(attach_policy(base, LORA, 0, phase=PHASE, gradient_checkpointing=checkpointing))
        assert policy.decoder.is_activation_checkpointing == checkpointing
        policy.model.train()
        policy.model(input_ids=IDS, use_cache=False).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in policy.trainable().items()})
        policy.detach()
        assert not base.model.is_activation_checkpointing
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


# --- saved and loaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [None, PHASE], ids=["adapter", "adapter and branch"])
def test_a_saved_policy_loads_with_equal_logits(base: Base, tmp_path: Path, phase: PhaseSettings | None) -> None:
    expected = saved(base, tmp_path / "a", phase=phase)
    policy = load_policy(base, tmp_path / "a")
    assert not policy.model.training
    assert torch.equal(logits(policy.model), expected)
    policy.detach()


def test_the_saved_folder_is_pefts_own_format_and_names_the_base(base: Base, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM

    expected = saved(base, tmp_path / "a")
    settings = LoraConfig.from_pretrained(tmp_path / "a")
    assert (settings.r, settings.lora_alpha, settings.base_model_name_or_path) == (4, 8, base.name)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), tmp_path / "a")
    assert torch.equal(logits(plain.eval()), expected)


def test_a_reference_with_another_branch_than_the_config_makes_is_an_error(base: Base, tmp_path: Path) -> None:
    saved(base, tmp_path / "with", phase=PHASE)
    for other in (None, replace(PHASE, dt=0.2)):
        with pytest.raises(ModelError, match="was trained with a phase branch"):
            attach_policy(base, LORA, seed=0, reference_adapter=tmp_path / "with", phase=other)


def test_a_branch_that_does_not_fit_leaves_the_base_bare(base: Base, tmp_path: Path) -> None:
    saved(base, tmp_path / "a", phase=PHASE)
    tensors = load_file(tmp_path / "a" / PHASE_FILE)
    write_branch(tmp_path / "a", SavedBranch(replace(PHASE, num_oscillators=4), tensors))
    with pytest.raises(PhaseAttentionError, match="num_oscillators"):
        load_policy(base, tmp_path / "a")
    with pytest.raises(PhaseAttentionError, match="phase_layer_idx"):
        attach_policy(base, LORA, seed=0, phase=replace(PHASE, layers=(9,)))


def edit(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**settings, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": "Qwen/Qwen2.5-1.5B"}, r"made for the base model Qwen/Qwen2\.5-1\.5B, not for "),
        ({"peft_type": "IA3"}, "holds a IA3 adapter; only LORA is supported"),
        ({"use_dora": True}, "is no plain LoRA adapter: use_dora is set"),
        ({"modules_to_save": ["lm_head"]}, "is no plain LoRA adapter: modules_to_save is set"),
        ({"r": 2}, "cannot be put on "),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_the_base_bare(
    base: Base, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    saved(base, tmp_path / "a")
    edit(tmp_path / "a", **changes)
    with pytest.raises(ModelError, match=message):
        load_policy(base, tmp_path / "a")
    with pytest.raises(ModelError, match=message):
        attach_policy(base, LORA, 0, reference_adapter=tmp_path / "a")


def test_an_adapter_of_the_same_model_in_another_place_fits(base: Base, tmp_path: Path) -> None:
    expected = saved(base, tmp_path / "a")
    edit(tmp_path / "a", base_model_name_or_path=f"somebody/{base.folder.name}")
    policy = load_policy(base, tmp_path / "a")
    assert torch.equal(logits(policy.model), expected)
    policy.detach()


def test_a_folder_that_is_no_adapter_is_refused_with_the_way_to_one(base: Base, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no adapter .*make one with: python train.py --config"):
        load_policy(base, tmp_path)
    with pytest.raises(ModelError, match="is no adapter"):
        attach_policy(base, LORA, 0, reference_adapter=tmp_path / "absent")
    saved(base, tmp_path / "a")
    (tmp_path / "a" / ADAPTER_CONFIG).write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json cannot be read"):
        load_policy(base, tmp_path / "a")


def test_a_damaged_adapter_file_is_refused(base: Base, tmp_path: Path) -> None:
    saved(base, tmp_path / "a")
    (tmp_path / "a" / ADAPTER_FILE).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be put on"):
        load_policy(base, tmp_path / "a")


# --- a reference adapter underneath ----------------------------------------------------------------------------------

UNLIKE = [
    (("q_proj", "v_proj"), None, ("q_proj", "v_proj"), None),
    (("q_proj", "v_proj"), None, ("q_proj", "v_proj"), "upper_third"),
    (("q_proj", "v_proj"), "upper_third", ("q_proj", "v_proj"), None),
    (("q_proj",), (0,), ("v_proj", "up_proj"), (2, 3)),
]


@pytest.mark.parametrize(("own", "own_layers", "under", "under_layers"), UNLIKE)
def test_a_reference_adapter_lies_underneath_and_is_summed_into_what_is_saved(
    base: Base, tmp_path: Path, own: Any, own_layers: Any, under: Any, under_layers: Any
) -> None:
    reference = saved(base, tmp_path / "ref", replace(LORA, r=2, target_modules=under, layers=under_layers))
    lora = replace(LORA, target_modules=own, layers=own_layers)
    policy = attach_policy(base, lora, seed=1, reference_adapter=tmp_path / "ref")
    assert torch.equal(logits(policy.model), reference)
    assert all(".policy." in name for name in policy.trainable())
    move(policy)
    expected = logits(policy.model)
    with policy.as_reference():
        assert torch.equal(logits(policy.model), reference)
    policy.save(tmp_path / "both")
    assert torch.equal(logits(policy.model), expected)
    assert all(".policy." in name for name in policy.trainable())
    policy.detach()
    combined = load_policy(base, tmp_path / "both")
    torch.testing.assert_close(logits(combined.model), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, reference, atol=1e-2)
    combined.detach()


@pytest.mark.parametrize(("own", "own_layers", "under", "under_layers"), UNLIKE)
def test_a_policy_begins_with_what_another_on_the_same_reference_has_saved(
    base: Base, tmp_path: Path, own: Any, own_layers: Any, under: Any, under_layers: Any
) -> None:
    saved(base, tmp_path / "ref", replace(LORA, r=2, target_modules=under, layers=under_layers))
    lora = replace(LORA, target_modules=own, layers=own_layers)
    first = attach_policy(base, lora, seed=1, reference_adapter=tmp_path / "ref")
    move(first)
    expected, weights = logits(first.model), trainable_state(first)
    first.save(tmp_path / "both")
    first.detach()
    second = attach_policy(base, lora, seed=2, reference_adapter=tmp_path / "ref")
    load_adapter(second, tmp_path / "both")
    assert torch.equal(logits(second.model), expected)
    assert all(torch.equal(value, weights[name]) for name, value in trainable_state(second).items())
    second.detach()


@pytest.mark.parametrize("phase", [None, PHASE])
def test_a_policy_begins_with_what_another_has_saved_and_its_branch(
    base: Base, phase: PhaseSettings | None, tmp_path: Path
) -> None:
    first = attach_policy(base, LORA, seed=1, phase=phase)
    move(first)
    expected = logits(first.model)
    first.save(tmp_path / "first")
    first.detach()
    second = attach_policy(base, LORA, seed=2, phase=phase)
    load_adapter(second, tmp_path / "first")
    assert torch.equal(logits(second.model), expected)
    second.detach()


@pytest.mark.parametrize(
    ("changed", "reference", "phase", "said"),
    [
        ({"target_modules": ("q_proj",)}, None, None, "on other modules"),
        ({"r": 2}, "ref", None, "of another rank"),
        ({"r": 8}, None, None, "of another rank"),
        ({}, "other", None, "on another reference"),
        ({}, "ref", PHASE, "another phase branch"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(
    base: Base, tmp_path: Path, changed: dict[str, Any], reference: str | None, phase: PhaseSettings | None, said: str
) -> None:
    saved(base, tmp_path / "ref")
    other = attach_policy(base, LORA, seed=6)
    other.save(tmp_path / "other")
    other.detach()
    first = attach_policy(base, LORA, seed=1, reference_adapter=reference and tmp_path / "ref")
    first.save(tmp_path / "first")
    first.detach()
    under = reference and tmp_path / reference
    second = attach_policy(base, replace(LORA, **changed), seed=2, reference_adapter=under, phase=phase)
    with pytest.raises(ModelError, match=said):
        load_adapter(second, tmp_path / "first")
    second.detach()


def test_training_leaves_the_reference_adapter_alone(base: Base, tmp_path: Path) -> None:
    saved(base, tmp_path / "ref")
    policy = attach_policy(base, LORA, seed=1, reference_adapter=tmp_path / "ref")
    with policy.as_reference():
        pass
    policy.model.train()
    policy.model(input_ids=IDS).logits.square().mean().backward()
    frozen = {name: p for name, p in policy.model.named_parameters() if ".reference." in name}
    assert len(frozen) == 16
    assert all(p.grad is None for p in frozen.values())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.trainable().values())
    policy.detach()


def test_a_reference_adapter_has_no_dropout_in_training(base: Base, tmp_path: Path) -> None:
    reference = saved(base, tmp_path / "ref", replace(LORA, dropout=0.5))
    policy = attach_policy(base, replace(LORA, dropout=0.5), seed=1, reference_adapter=tmp_path / "ref")
    assert torch.equal(logits(policy.model.train()), reference)
    move(policy).model.train()
    assert not torch.equal(logits(policy.model), logits(policy.model))
    policy.detach()


def test_a_reference_is_known_by_all_that_its_outputs_depend_on(base: Base, tmp_path: Path) -> None:
    def name(folder: Path, phase: PhaseSettings | None = None) -> str:
        policy = attach_policy(base, LORA, 0, reference_adapter=folder, phase=phase)
        policy.detach()
        return policy.reference

    saved(base, tmp_path / "plain")
    saved(base, tmp_path / "phase", phase=PHASE)
    shutil.copytree(tmp_path / "plain", tmp_path / "scaled")
    edit(tmp_path / "scaled", lora_alpha=16)
    names = [
        name(tmp_path / "plain"),
        name(tmp_path / "scaled"),
        name(tmp_path / "phase", PHASE),
    ]
    assert len(set(names)) == 3
    assert name(tmp_path / "plain", PHASE) == names[0]
    bare = attach_policy(base, LORA, 0)
    assert bare.reference == ""
    bare.detach()


def test_a_branch_trains_on_top_of_a_reference_adapter(base: Base, tmp_path: Path) -> None:
    reference = saved(base, tmp_path / "ref")
    policy = attach_policy(base, LORA, seed=1, reference_adapter=tmp_path / "ref", phase=PHASE)
    assert torch.equal(logits(policy.model), reference)
    assert any("phase_branch" in name for name in policy.trainable())
    move(policy)
    expected = logits(policy.model)
    with policy.as_reference():
        assert torch.equal(logits(policy.model), reference)
    assert any("phase_branch" in name for name in policy.trainable())
    policy.save(tmp_path / "both")
    policy.detach()
    combined = load_policy(base, tmp_path / "both")
    torch.testing.assert_close(logits(combined.model), expected, rtol=1e-5, atol=1e-5)
    combined.detach()


def test_a_reference_that_was_trained_with_a_branch_keeps_it_and_the_policys_starts_there(
    base: Base, tmp_path: Path
) -> None:
    reference = saved(base, tmp_path / "ref", phase=PHASE)
    policy = attach_policy(base, LORA, seed=1, reference_adapter=tmp_path / "ref", phase=PHASE)
    assert torch.equal(logits(policy.model), reference)
    move(policy)
    expected = logits(policy.model)
    with policy.as_reference():
        assert torch.equal(logits(policy.model), reference)
    assert torch.equal(logits(policy.model), expected)
    policy.save(tmp_path / "both")
    assert (tmp_path / "both" / PHASE_FILE).is_file()
    policy.detach()
    combined = load_policy(base, tmp_path / "both")
    torch.testing.assert_close(logits(combined.model), expected, rtol=1e-5, atol=1e-5)
    combined.detach()
    with pytest.raises(ModelError, match="was trained with a phase branch"):
        attach_policy(base, LORA, seed=1, reference_adapter=tmp_path / "ref")


# --- the tensors under training --------------------------------------------------------------------------------------


def test_the_tensors_under_training_survive_a_file(base: Base, tmp_path: Path) -> None:
    policy = move(attach_policy(base, LORA, seed=0, phase=PHASE))
    expected = logits(policy.model)
    save_file(trainable_state(policy), tmp_path / "t.safetensors")
    move(policy, seed=1)
    load_trainable_state(policy, load_file(tmp_path / "t.safetensors"))
    assert torch.equal(logits(policy.model), expected)
    policy.detach()


@pytest.mark.parametrize("other", [replace(LORA, r=1), replace(LORA, target_modules=("q_proj",))])
def test_tensors_of_another_config_are_refused(base: Base, other: LoraSettings) -> None:
    policy = attach_policy(base, other, seed=0)
    state = trainable_state(policy)
    policy.detach()
    policy = attach_policy(base, LORA, seed=0)
    with pytest.raises(ModelError, match="other trainable parameters than this config makes; start afresh"):
        load_trainable_state(policy, state)
    policy.detach()
