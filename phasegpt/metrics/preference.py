"""Preference metrics on held-out pairs: loss, margin, accuracy, and the KL divergence from the reference."""

from collections.abc import Iterator, Sequence

import torch

from phasegpt.forward import PairModel
from phasegpt.objectives import dpo_loss, rewards
from phasegpt.shared_work import SharedWork

TIE = 1e-3  # nats: two passes over one answer differ by less, and an untuned model must not win or lose by it
NAMES = ("eval_loss", "reward_margin", "reward_accuracy", "kl_divergence")


def pair_rows(
    model: PairModel, shared: SharedWork, pair_ids: Sequence[str], beta: float, batch_size: int, *, with_kl: bool
) -> Iterator[dict[str, float | str]]:
    """One row a pair, a batch at a time, without gradient.

    eval_loss        plain DPO loss at `beta`, in nats; ln 2 where policy = reference; lower is better
    reward_margin    β·(log-ratio of chosen − log-ratio of rejected); higher is better
    reward_accuracy  1 where the margin is positive, ½ where it is zero but for rounding (TIE nats times β)
    kl_divergence    KL(π‖π_ref) in nats a token: mean over completion tokens, then over the pair's two answers
    """
    model.eval()
    for begin in range(0, len(pair_ids), batch_size):
        ids = pair_ids[begin : begin + batch_size]
        batch = shared.batch(ids, with_hidden=with_kl)
        with torch.no_grad():
            outputs = model({name: value.to(model.policy.head.device) for name, value in batch.items()}, with_kl)
        losses = dpo_loss(
            outputs.policy_chosen_logps,
            outputs.policy_rejected_logps,
            outputs.reference_chosen_logps,
            outputs.reference_rejected_logps,
            beta,
        )
        chosen, rejected = rewards(outputs, beta)
        for row, pair_id in enumerate(ids):
            margin = (chosen[row] - rejected[row]).item()
            values: dict[str, float | str] = {
                "id": pair_id,
                "eval_loss": losses[row].item(),
                "reward_margin": margin,
                "reward_accuracy": 0.5 if abs(margin) < TIE * beta else float(margin > 0),
            }
            if outputs.divergences is not None:
                first, second = outputs.divergences.chunk(2)
                values["kl_divergence"] = (first[row] + second[row]).item() / 2
            yield values
