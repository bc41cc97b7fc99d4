"""How many optimizer steps the stages of a config take on its data. Reads the pairs, and needs no torch."""

from phasegpt.answers import examples_of, read_preferences, split_preferences
from phasegpt.config import Config, stages
from phasegpt.config_io import resolve
from phasegpt.pairs import AnswerSplit, Split
from phasegpt.schedule import laps, optimizer_steps


def split_of(config: Config) -> Split | AnswerSplit:
    """The preference data as the config splits it. Raises PairsError."""
    training, strata = config.training, config.data.stratify_by
    rows = read_preferences(resolve(training.preference_dataset), training.method, config.data.domains, strata)
    held_out = config.evaluation.held_out_domains
    return split_preferences(rows, config.data.val_split, strata, held_out, config.experiment.seed)


def steps_of(config: Config, split: Split | AnswerSplit | None = None) -> tuple[int, ...]:
    """The steps of each stage, in order; `split` where it is there already."""
    train = (split or split_of(config)).train
    return tuple(_steps(stage, len(examples_of(train, stage.training.method))) for stage in stages(config))


def _steps(config: Config, examples: int) -> int:
    training = config.training
    run = laps(examples, training.num_epochs, training.curriculum_learning.active)
    return optimizer_steps(run, training.micro_batch, training.gradient_accumulation_steps, training.max_steps)
