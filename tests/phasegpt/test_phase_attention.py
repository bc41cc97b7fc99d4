"""The Kuramoto branch against its quadratic definition, and the branch inside real decoders of transformers."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from phasegpt.phase_attention import (
    KuramotoBranch,
    PhaseHandles,
    attach_phase_branch,
    layer_indices,
    load_phase_state,
    mean_field,
    phase_state_dict,
)
from phasegpt.phase_state import PhaseAttentionError
from tests.phasegpt.decoders import FAMILIES, IDS, logits, open_gates, tiny

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),  # PEFT asks transformers for it
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@pytest.fixture(params=FAMILIES)
def decoder_model(request: pytest.FixtureRequest) -> nn.Module:
    """A tiny float64 model of each supported family, in evaluation mode."""
    return tiny(request.param)


@pytest.fixture
def toy(toy_model_dir: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(toy_model_dir, dtype=torch.float64).eval()
    return model


def open_branch(hidden_size: int = 6, num_oscillators: int = 4, **settings: float) -> KuramotoBranch:
    branch = KuramotoBranch(hidden_size, num_oscillators, **settings).double()  # type: ignore[arg-type]
    nn.init.normal_(branch.gate)
    return branch


def quadratic_phases(branch: KuramotoBranch, hidden: Tensor, mask: Tensor) -> Tensor:
    """The Euler steps by the definition: token i looks at every visible j up to i."""
    unit = hidden / hidden.pow(2).mean(-1, keepdim=True).sqrt()
    phases = unit @ branch.phase_weight.T
    for _ in range(branch.n_sync_steps):
        pull = torch.zeros_like(phases)
        for row in range(len(phases)):
            for i in range(phases.shape[1]):
                seen = [j for j in range(i + 1) if mask[row, j]]
                if seen:
                    pull[row, i] = torch.stack([(phases[row, j] - phases[row, i]).sin() for j in seen]).mean(0)
        phases = phases + branch.dt * (branch.natural_freq + branch.coupling * pull)
    return phases


def test_linear_form_equals_the_quadratic_definition_in_float64() -> None:
    branch, hidden = open_branch(), torch.randn(3, 9, 6).double()
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1] * 5 + [0] * 4])
    difference = branch.phases(hidden, mask) - quadratic_phases(branch, hidden, mask)
    assert difference[mask.bool()].abs().max() < 1e-10


def test_mean_field_of_two_tokens_a_quarter_turn_apart_is_half() -> None:
    """Token 1 sees itself (sin 0) and token 0 a quarter turn ahead (sin π/2): mean 1/2; token 0 sees itself: 0."""
    phases = torch.tensor([[[torch.pi / 2], [0.0]]], dtype=torch.float64)
    visible, count = torch.ones(1, 2, 1, dtype=torch.bool), torch.tensor([[[1], [2]]])
    pull, sums = mean_field(phases, visible, count, torch.zeros(1, 2, 1, dtype=torch.float64))
    assert pull.flatten().tolist() == pytest.approx([0.0, 0.5])
    assert sums.flatten().tolist() == pytest.approx([1.0, 1.0])  # sin π/2 + sin 0, cos π/2 + cos 0
    later, _ = mean_field(phases[:, 1:], visible[:, 1:], count[:, 1:], torch.tensor([[[1.0], [0.0]]]).double())
    assert torch.equal(later, pull[:, 1:])


def test_without_coupling_every_phase_advances_by_omega_times_the_time_passed() -> None:
    """K = 0, ω = 2, five steps of 0.1: every phase gains 1 rad."""
    moving = open_branch(coupling_strength=0.0, natural_freq=2.0)
    hidden = torch.randn(1, 4, 6).double()
    gained = moving.phases(hidden)
    moving.n_sync_steps = 0
    assert torch.allclose(gained - moving.phases(hidden), torch.ones(1, 4, 4).double())


def test_changing_a_token_changes_nothing_before_it() -> None:
    branch, hidden = open_branch(), torch.randn(2, 8, 6).double()
    changed = hidden.clone()
    changed[:, 5] += 1.0
    before, after = branch(hidden), branch(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(-1).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_on_visible_tokens_whatever_it_holds(side: str) -> None:
    branch, hidden = open_branch(), torch.randn(2, 5, 6).double()
    padding, ones = torch.full((2, 3, 6), torch.nan).double(), torch.ones(2, 5)
    parts, masks = (
        ([padding, hidden], [torch.zeros(2, 3), ones])
        if side == "left"
        else ([hidden, padding], [ones, torch.zeros(2, 3)])
    )
    mask = torch.cat(masks, 1)
    padded = branch(torch.cat(parts, 1), mask)[mask.bool()].view(2, 5, 6)
    assert torch.allclose(padded, branch(hidden), atol=1e-14, rtol=0)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(PhaseAttentionError, match=r"\[batch, tokens\] = \[2, 5\], found"):
        open_branch()(torch.randn(2, 5, 6).double(), torch.ones(2, 1, 5, 5))


def test_gradients_of_input_and_every_parameter_agree_with_finite_differences() -> None:
    branch, hidden = open_branch(4, 3), torch.randn(2, 4, 4).double().requires_grad_()
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    names, values = zip(*branch.named_parameters(), strict=True)

    def output(hidden: Tensor, *parameters: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(branch, dict(zip(names, parameters, strict=True)), (hidden, mask))
        return result

    assert len(names) == 5
    assert torch.autograd.gradcheck(output, (hidden, *values))


def test_half_precision_is_computed_in_float32_and_returned_in_half() -> None:
    branch = KuramotoBranch(6, 4)
    nn.init.normal_(branch.gate)
    hidden = torch.randn(1, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        phases, output = branch.phases(hidden), branch(hidden)
    assert torch.equal(phases, branch.phases(hidden))
    assert torch.equal(output, branch(hidden))
    assert branch.phases(hidden.bfloat16()).dtype == torch.float32
    assert branch(hidden.bfloat16()).dtype == torch.bfloat16


def test_outputs_are_bit_equal_at_initialisation(decoder_model: nn.Module) -> None:
    mask = torch.tensor([[1] * 7, [0] * 2 + [1] * 5])
    base = logits(decoder_model, IDS, mask)
    attach_phase_branch(decoder_model, [0, "0.5"], num_oscillators=4)
    assert torch.equal(logits(decoder_model, IDS, mask), base)


def test_an_open_gate_keeps_the_whole_model_causal(decoder_model: nn.Module) -> None:
    handles = attach_phase_branch(decoder_model, [1], num_oscillators=4)
    base = logits(decoder_model, IDS)
    open_gates(handles)
    changed = IDS.clone()
    changed[:, 4] = 100
    before, after = logits(decoder_model, IDS), logits(decoder_model, changed)
    assert not torch.equal(before, base)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_the_batch_changes_no_visible_logit(decoder_model: nn.Module, side: str) -> None:
    open_gates(attach_phase_branch(decoder_model, [0, 2], num_oscillators=4))
    padding = torch.zeros(2, 3, dtype=torch.long)
    ids = torch.cat([padding, IDS] if side == "left" else [IDS, padding], 1)
    mask = (ids != 0).long()
    assert torch.allclose(logits(decoder_model, ids, mask)[mask.bool()].view(2, 7, -1), logits(decoder_model, IDS))


def test_disabled_and_removed_branches_leave_the_base_exactly_as_it_was(decoder_model: nn.Module) -> None:
    base, names = logits(decoder_model, IDS), list(decoder_model.state_dict())
    handles = attach_phase_branch(decoder_model, [0, 1, 2], num_oscillators=4)
    open_gates(handles)
    assert list(decoder_model.state_dict()) != names
    with handles.disabled():
        with handles.disabled():
            assert torch.equal(logits(decoder_model, IDS), base)
        assert torch.equal(logits(decoder_model, IDS), base)
    assert not torch.equal(logits(decoder_model, IDS), base)
    handles.remove()
    handles.remove()
    assert torch.equal(logits(decoder_model, IDS), base)
    assert list(decoder_model.state_dict()) == names
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in decoder_model.modules()]
    assert sum(hooks) == 0


def test_gradient_reaches_every_parameter_once_the_gate_is_open(toy: nn.Module) -> None:
    handles = attach_phase_branch(toy, [1, 3], num_oscillators=4)
    open_gates(handles)
    parameters = [p for branch in handles.branches.values() for p in branch.parameters()]
    gradients = torch.autograd.grad(logits(toy, IDS).pow(2).mean(), parameters)
    assert all(g.abs().sum() > 0 for g in gradients)


def test_at_initialisation_only_the_gate_has_a_gradient(toy: nn.Module) -> None:
    branch = attach_phase_branch(toy, [1], num_oscillators=4).branches[1]
    names, parameters = zip(*branch.named_parameters(), strict=True)
    gradients = torch.autograd.grad(logits(toy, IDS).pow(2).mean(), parameters)
    assert [name for name, g in zip(names, gradients, strict=True) if g.abs().sum() > 0] == ["gate"]


def test_gradient_checkpointing_sees_the_same_mask_again(toy: nn.Module) -> None:
    handles = attach_phase_branch(toy, [1], num_oscillators=4)
    open_gates(handles)
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])

    def gradient() -> Tensor:
        loss = logits(toy, IDS, mask)[mask.bool()].pow(2).mean()
        return torch.autograd.grad(loss, handles.branches[1].phase_weight)[0]

    plain = gradient()
    toy.train()
    toy.activation_checkpointing_enable()  # type: ignore[operator]
    assert torch.equal(gradient(), plain)


def test_bfloat16_models_get_a_float32_branch_and_keep_their_outputs(toy_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(toy_model_dir, dtype=torch.bfloat16).eval()
    base = logits(model, IDS)
    branch = attach_phase_branch(model, [2], num_oscillators=4).branches[2]
    assert {p.dtype for p in branch.parameters()} == {torch.float32}
    assert torch.equal(logits(model, IDS), base)


def test_a_prepared_4d_mask_is_refused(toy: nn.Module) -> None:
    attach_phase_branch(toy, [1], num_oscillators=4)
    with pytest.raises(PhaseAttentionError, match="4-D"):
        logits(toy, IDS, torch.ones(2, 1, 7, 7, dtype=torch.bool))


def lora(model: nn.Module) -> PeftModel:
    torch.manual_seed(11)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)
    return wrapped.eval()


@pytest.fixture(params=["before", "after"])
def with_peft(request: pytest.FixtureRequest, toy: nn.Module) -> tuple[PeftModel, PhaseHandles]:
    """The toy model under LoRA with a branch attached before or after PEFT wrapped it."""
    handles = attach_phase_branch(toy, [1], num_oscillators=4) if request.param == "before" else None
    model = lora(toy)
    return model, handles or attach_phase_branch(model, [1], num_oscillators=4)


def test_under_peft_branch_and_adapters_train_and_the_base_does_not(with_peft: tuple[PeftModel, PhaseHandles]) -> None:
    model, handles = with_peft
    for branch in handles.branches.values():
        branch.requires_grad_(True)  # PEFT froze it where it came before
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum("phase_branch" in name for name in trained) == 5
    assert all("phase_branch" in name or "lora_" in name for name in trained)
    assert not any("phase_branch" in name and "lora_" in name for name in trained)


def test_under_peft_the_branch_is_removed_and_the_base_comes_back(
    with_peft: tuple[PeftModel, PhaseHandles], toy_model_dir: Path
) -> None:
    model, handles = with_peft
    base = logits(AutoModelForCausalLM.from_pretrained(toy_model_dir, dtype=torch.float64).eval(), IDS)
    open_gates(handles)
    assert not torch.equal(logits(model, IDS), base)
    with handles.disabled(), model.disable_adapter():
        assert torch.equal(logits(model, IDS), base)
    handles.remove()
    assert torch.equal(logits(model.unload(), IDS), base)


def test_a_branch_attached_before_peft_is_frozen_by_it(toy: nn.Module) -> None:
    branch = attach_phase_branch(toy, [1], num_oscillators=4).branches[1]
    lora(toy)
    assert not any(p.requires_grad for p in branch.parameters())


def test_saved_branches_load_into_a_model_with_or_without_peft(
    toy_model_dir: Path, tmp_path: Path, toy: nn.Module
) -> None:
    open_gates(attach_phase_branch(toy, [1, 2], num_oscillators=4))
    save_file(phase_state_dict(toy), tmp_path / "phase.safetensors")
    fresh = AutoModelForCausalLM.from_pretrained(toy_model_dir, dtype=torch.float64).eval()
    wrapped = lora(fresh)
    attach_phase_branch(wrapped, [1, 2], num_oscillators=4)
    load_phase_state(wrapped, load_file(tmp_path / "phase.safetensors"))
    assert torch.equal(logits(wrapped, IDS), logits(toy, IDS))
    assert phase_state_dict(wrapped).keys() == phase_state_dict(toy).keys()


def test_a_saved_branch_of_other_layers_or_sizes_is_refused(toy: nn.Module) -> None:
    handles = attach_phase_branch(toy, [1], num_oscillators=4)
    saved = phase_state_dict(toy)
    handles.remove()
    handles = attach_phase_branch(toy, [2], num_oscillators=4)
    with pytest.raises(PhaseAttentionError, match="phase_layer_idx"):
        load_phase_state(toy, saved)
    handles.remove()
    attach_phase_branch(toy, [1], num_oscillators=5)
    with pytest.raises(PhaseAttentionError, match="num_oscillators"):
        load_phase_state(toy, saved)


def test_an_unknown_architecture_is_refused_with_the_supported_ones() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16, n_positions=8))
    with pytest.raises(PhaseAttentionError, match="LlamaModel, Qwen2Model, Qwen3Model"):
        attach_phase_branch(model, [0])


def test_a_second_branch_on_a_layer_is_refused_and_leaves_the_first(toy: nn.Module) -> None:
    first = attach_phase_branch(toy, [1], num_oscillators=4)
    with pytest.raises(PhaseAttentionError, match=r"layers \[1\]"):
        attach_phase_branch(toy, [0, 1], num_oscillators=4)
    assert phase_state_dict(toy).keys() == {f"layers.1.{name}" for name, _ in first.branches[1].named_parameters()}


@pytest.mark.parametrize(
    ("spec", "num_layers", "expected"),
    [
        ([7], 24, (7,)),
        (["0.3"], 24, (7,)),
        (["0.5"], 28, (14,)),
        (["0.29"], 100, (29,)),  # 0.29 * 100 is 28.999… in floats
        (["0", "0.99"], 30, (0, 29)),
        ([5, "1/3", 0], 30, (0, 5, 10)),
        ([], 30, ()),
    ],
)
def test_layers_are_indices_or_fractions_of_the_depth(
    spec: list[int | str], num_layers: int, expected: tuple[int, ...]
) -> None:
    assert layer_indices(spec, num_layers) == expected


@pytest.mark.parametrize("wrong", [30, -1, "1.0", "-0.1", "top", "1/0", "nan"])
def test_a_layer_outside_the_model_is_refused_with_the_range(wrong: int | str) -> None:
    with pytest.raises(PhaseAttentionError, match=f"phase_layer_idx {wrong!r}: expected 0 to 29"):
        layer_indices([wrong], 30)


def test_a_layer_named_twice_is_refused() -> None:
    with pytest.raises(PhaseAttentionError, match="twice"):
        layer_indices([7, "0.3"], 24)
