"""How the oscillators of a training run fare: order and entropy of their phases, and how far K and ω have moved.

A `PhaseDynamics` stands beside the trainer. In the steps that it notes, a hook on each branch looks at the hidden
states that pass through in training; in all others nothing hangs on the model. Knows nothing of losses or configs.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from phasegpt.phase_attention import KuramotoBranch, visible_tokens
from phasegpt.phase_state import PhaseState

log = logging.getLogger("phasegpt")
BINS = 16
"""Into how many equal arcs the circle is cut for the entropy."""

OVER_SYNCHRONISED = 0.8
NOTES_IN_A_ROW = 3
"""R stays above OVER_SYNCHRONISED when this many notes in a row say so."""

Note = Callable[[Mapping[str, Tensor]], None]
"""Takes what was noted of a layer: {name: values}, of which the means count."""


def order_parameter(phases: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """R in [0, 1] of each sequence [B]: |mean over visible tokens of exp(iθ)|, averaged over the oscillators.

    0 is no order, 1 full synchrony. Oscillators are separate populations (only tokens are coupled), so the modulus is
    taken for each of them. A sequence without a visible token has R = 0.
    """
    visible = visible_tokens(attention_mask, phases)
    count = visible.sum(1).clamp(min=1)
    mean_sin = (visible * phases.sin()).sum(1) / count
    mean_cos = (visible * phases.cos()).sum(1) / count
    return torch.hypot(mean_sin, mean_cos).mean(-1)


def phase_entropy(phases: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Entropy in [0, 1] of each sequence [B]: of its visible tokens' phases over BINS equal arcs, divided by ln BINS.

    0 where all phases of an oscillator lie in one arc, 1 where all arcs hold as many; the mean over the oscillators.
    One minus it is the synchronisation index of Tass et al. (1998, Phys. Rev. Lett. 81, 3291). Few tokens cannot fill
    all arcs: T tokens spread at random have about 1 − (BINS − 1) / (2 T ln BINS).
    """
    visible = visible_tokens(attention_mask, phases)
    arcs = (phases.remainder(2 * math.pi) * (BINS / (2 * math.pi))).long().clamp(max=BINS - 1)
    counts = (nn.functional.one_hot(arcs, BINS) * visible[..., None]).sum(1)
    shares = counts / visible.sum(1).clamp(min=1)[..., None]
    entropy: Tensor = torch.special.entr(shares).sum(-1).mean(-1)
    return entropy / math.log(BINS)


@dataclass
class _Watched:
    """A branch, where it began, and what it has shown in the step that is being noted."""

    branch: KuramotoBranch
    coupling: Tensor
    natural_freq: Tensor
    order: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    above: int = 0


class PhaseDynamics(TrainerCallback):  # type: ignore[misc]
    """Notes the branches every `interval` optimizer steps.

    For the layer 7 it notes `phase_order_7` (R) and `phase_entropy_7` of each sequence of the step's batches in this
    process, and after the step `phase_coupling_drift_7` (K less its start) and `phase_frequency_drift_7` (root mean
    square over the oscillators of ω less its start). The start is what the branches hold when this is made. Warns when
    R stays above 0.8, once until it has come down again.
    """

    def __init__(self, branches: Mapping[int, KuramotoBranch], interval: int) -> None:
        self.interval = interval
        self._watched = {
            layer: _Watched(branch, branch.coupling.detach().clone(), branch.natural_freq.detach().clone())
            for layer, branch in branches.items()
        }
        self._notes: list[Note] = []
        self._hooks: list[Any] = []

    def telling(self, note: Note) -> Self:
        """Tell `note` at the end of every step that is noted."""
        self._notes.append(note)
        return self

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Look on, if the coming step is to be noted."""
        if (state.global_step + 1) % self.interval == 0:
            self._hooks = [
                watched.branch.register_forward_hook(_looking(watched), with_kwargs=True)
                for watched in self._watched.values()
            ]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Tell what was seen and look away."""
        while self._hooks:
            self._hooks.pop().remove()
        for layer, watched in self._watched.items():
            if watched.order:
                self._tell(layer, watched, state.global_step)

    def _tell(self, layer: int, watched: _Watched, step: int) -> None:
        branch, order = watched.branch, torch.cat(watched.order)
        moved = (branch.natural_freq.detach() - watched.natural_freq).pow(2).mean().sqrt()
        values = {
            f"phase_order_{layer}": order,
            f"phase_entropy_{layer}": torch.cat(watched.entropy),
            f"phase_coupling_drift_{layer}": branch.coupling.detach() - watched.coupling,
            f"phase_frequency_drift_{layer}": moved.reshape(1),
        }
        for note in self._notes:
            note(values)
        watched.order, watched.entropy = [], []
        watched.above = watched.above + 1 if order.mean() > OVER_SYNCHRONISED else 0
        if watched.above == NOTES_IN_A_ROW:
            log.warning(
                "step %d: the phases of layer %d are over-synchronised: R = %.2f, above %.1f in %d notes in a row; "
                "lower model.coupling_strength, model.dt or model.n_sync_steps",
                step, layer, order.mean().item(), OVER_SYNCHRONISED, NOTES_IN_A_ROW,
            )  # fmt: skip


def _looking(watched: _Watched) -> Callable[..., None]:
    """A forward hook that computes the phases again and keeps what they show; only training is looked at.

    Evaluation and the reference run without gradient.
    """

    def look(branch: KuramotoBranch, args: tuple[Any, ...], kwargs: dict[str, Any], _: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        hidden, mask = _hidden_and_mask(*args, **kwargs)
        with torch.no_grad():
            phases = branch.phases(hidden, mask)
            watched.order.append(order_parameter(phases, mask))
            watched.entropy.append(phase_entropy(phases, mask))

    return look


def _hidden_and_mask(
    hidden: Tensor, attention_mask: Tensor | None = None, state: PhaseState | None = None
) -> tuple[Tensor, Tensor | None]:
    """What of a branch's arguments a training pass has: it keeps no state."""
    return hidden, attention_mask
