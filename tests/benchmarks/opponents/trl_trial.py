"""One trial as users write it with plain transformers, PEFT and TRL; the opponent of a search, alone or inside Ray.

    python tests/benchmarks/opponents/trl_trial.py TASK.json LEARNING_RATE FOUND.json

TASK.json holds the model, the pairs, the prompts and every number; `search.py` writes it from the same config that our
side runs. The reference is live, as DPOTrainer has it by default; gradient checkpointing, reports and checkpoints on
the way are off, the adapter is saved at the end. Then it is evaluated once: DPOTrainer's own evaluation on the held-out
pairs, greedy answers to the prompts in one batch with their Spiral Score, and perplexity over windows as transformers'
documentation does it.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Task = Mapping[str, Any]


def run(task: Task, learning_rate: float, folder: Path) -> dict[str, Any]:
    """Train and evaluate. Gives `metrics`, and seconds in steps (`training`) and in the evaluation.

    `ended` is the time at the end of the evaluation, by `time.time()`.
    """
    trainer, steps = trainer_of(task, learning_rate, folder)
    trainer.train()
    trainer.save_model(str(folder))
    begun = time.time()
    metrics = evaluate(trainer, task)
    ended = time.time()
    return {"training": steps.seconds, "evaluation": ended - begun, "ended": ended, "metrics": metrics}


def trainer_of(task: Task, learning_rate: float, folder: Path) -> tuple[Any, Any]:
    """DPOTrainer with adapters on the base model, and the callback that adds up the time in its steps."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    steps = step_clock()
    files = {"train": task["train"], "validation": task["validation"]}
    rows = load_dataset("json", data_files=files, cache_dir=task["cache"])
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(task["model"], dtype="float32"),
        args=DPOConfig(
            output_dir=str(folder),
            learning_rate=learning_rate,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            eval_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **task["training"],
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=AutoTokenizer.from_pretrained(task["model"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **task["lora"]),
        callbacks=[steps],
    )
    return trainer, steps


def step_clock() -> Any:
    """A callback whose `seconds` are those between the beginnings and the ends of optimizer steps."""
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):  # type: ignore[misc]
        seconds, begun = 0.0, 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds += time.monotonic() - self.begun

    return StepClock()


def evaluate(trainer: Any, task: Task) -> dict[str, float]:
    """The metrics of our side's evaluation, by the names that it has for them."""
    from phasegpt.metrics.spiral import spiral_score

    found = trainer.evaluate()
    model, tokenizer = trainer.model, trainer.processing_class
    scores = [spiral_score(text) for text in answers(model, tokenizer, task)]
    return {
        "eval_loss": found["eval_loss"],
        "reward_margin": found["eval_rewards/margins"],
        "reward_accuracy": found["eval_rewards/accuracies"],
        "spiral_score": sum(scores) / len(scores),
        "perplexity": perplexity(model, tokenizer, task),
    }


def answers(model: Any, tokenizer: Any, task: Task) -> list[str]:
    """Greedy answers to all prompts, in one batch."""
    tokenizer.padding_side = "left"
    dialogues = [[{"role": "user", "content": prompt}] for prompt in task["prompts"]]
    inputs = tokenizer.apply_chat_template(
        dialogues, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**inputs, max_new_tokens=task["max_new_tokens"], do_sample=False)
    texts: list[str] = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def perplexity(model: Any, tokenizer: Any, task: Task) -> float:
    """exp of the mean loss a token over windows of the prose, each token scored once."""
    import torch

    text = Path(task["prose"]).read_text(encoding="utf-8")
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[:, : task["prose_tokens"]]
    total, scored = 0.0, 1
    for begin in range(0, ids.shape[1], task["stride"]):
        end = min(begin + task["window"], ids.shape[1])
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : scored - begin] = -100
        with torch.no_grad():
            total += model(window, labels=labels).loss.item() * (end - scored)
        scored = end
        if end == ids.shape[1]:
            break
    return math.exp(total / (scored - 1))


def main() -> None:
    task, learning_rate, found = json.loads(Path(sys.argv[1]).read_text()), float(sys.argv[2]), Path(sys.argv[3])
    found.write_text(json.dumps(run(task, learning_rate, found.with_suffix(""))))


if __name__ == "__main__":
    main()
