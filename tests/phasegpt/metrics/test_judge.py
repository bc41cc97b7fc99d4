"""The judge's vectors: on the toy model their mechanics, on the bundled one what the score makes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from phasegpt.metrics.judge import Judge
from phasegpt.models import load_base

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = "A wall keeps out the wind. It keeps out the view as well! Whoever builds it chooses between the two."


@pytest.fixture(scope="module")
def toy(toy_model_dir: Path) -> Judge:
    return Judge(load_base(str(toy_model_dir), Path()), layer=2)


def test_the_vector_is_the_mean_state_of_sentences_read_alone(toy_model_dir: Path) -> None:
    base = load_base(str(toy_model_dir), Path())
    with torch.no_grad():
        states = []
        for sentence in ("A wall keeps out the wind.", "It keeps out the view as well!"):
            ids = torch.tensor([base.tokenizer("\n" + sentence, add_special_tokens=False)["input_ids"]])
            states.append(base.model.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, 1:])
    expected = torch.cat(states).mean(0).numpy()
    found = Judge(base, layer=2).vector("A wall keeps out the wind. It keeps out the view as well!")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_order_of_sentences_and_what_stands_beside_them_change_nothing(toy: Judge) -> None:
    first, second, third = "A wall keeps out the wind.", "It keeps out the view as well!", "Whoever builds it chooses."
    np.testing.assert_allclose(
        toy.vector(f"{first} {second} {third}"), toy.vector(f"{third} {first} {second}"), atol=1e-6
    )


def test_the_same_text_has_the_same_vector_each_time(toy: Judge) -> None:
    assert np.array_equal(toy.vector(TEXT), toy.vector(TEXT))


@pytest.mark.parametrize("text", ["", "   \n", "… ?!"])
def test_a_text_without_words_has_the_zero_vector(toy: Judge, text: str) -> None:
    assert not toy.vector(text).any()
