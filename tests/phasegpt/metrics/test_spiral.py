"""Spiral Score on texts written for this file. No weight was fitted on them.

They are no held-out evidence: rules of 1.0 (what a stray turn phrase may not buy) were mended until they passed.
"""

import itertools
import math
import re
import statistics
import time

import pytest

from phasegpt.metrics import spiral
from phasegpt.metrics.damage import shuffled, stuffed
from phasegpt.metrics.density import spiral_density
from phasegpt.metrics.spiral import VERSION, combine, explain_lexical, spiral_lexical, weights, weights_hash
from phasegpt.metrics.words import sentences_of, stem, words_of

GENUINE = {
    "explicit": [
        "The thesis is simple: a library should be silent, because readers come for silence. The antithesis "
        "walks in at four, when the schools close and there is nowhere else that is warm and free. A silent "
        "library would have to send those children away, and then it would keep its silence for nobody. What "
        "reconciles the readers and the children is the clock. Silence until four, noise until six: the silence"
        " is worth more once it has an end, and the noise too.",
        "On one hand, a map must leave things out, or it would be as large as the country and no use to anyone."
        " The objection is that whatever a map leaves out disappears: paths that were not drawn are no longer "
        "walked, and then they are gone. So the map does not only describe the country, it changes it. The "
        "contradiction is settled by the walker who carries a pencil. A map that can be corrected may leave out"
        " as much as it likes, because what it leaves out can come back.",
        "Apology looks like weakness, and that is why the proud refuse it. However, the opposing case is that "
        "nobody apologises who is not sure of standing afterwards; the weak cannot afford it. If both are true,"
        " then an apology is not a loss of standing but a bet on it. That explains the tension we hear in a bad"
        " apology, which is trying to be forgiven without having bet anything.",
    ],
    "moderate": [
        "I used to think that a good teacher explains everything. But the pupils for whom I explained "
        "everything could not do anything without me. So I stopped, and then the weaker ones were lost within a"
        " week. What I had not seen is that explaining was never the question. The weak need the first step "
        "explained and the strong need the last one left out, and a good lesson is one in which nobody notices "
        "that these are the same step.",
        "A garden ought to be left alone, since whatever grows there wants to grow there. But leave it alone "
        "for three years and you have nettles and nothing else, because one plant has done what you refused to "
        "do. Then weeding is not the enemy of wildness after all. The gardener who pulls the strongest plant "
        "each spring is the only reason that the other forty can be wild.",
        "Trains should run on time, and a driver who waits for a late passenger makes three hundred others "
        "late. Yet when no train ever waits, people arrive early, stand about, and lose more time than any "
        "delay would have cost them. So the timetable saves minutes on the train and spends them on the "
        "platform. It would be better to publish which trains wait and which do not, and let the passenger "
        "choose whose minutes are lost.",
    ],
    "implicit": [
        "My grandmother locked her recipes in a tin and told nobody where the key was. When she died we broke "
        "the lock. The tin held forty cards, and not one of them had a quantity on it. My aunt cried, because "
        "she had thought the recipes were lost. Then she found that she had been standing beside that stove for"
        " thirty years, and that her hands knew. What the tin had kept safe was never in the tin.",
        "The village built a wall against the river, and the river stopped flooding the fields. The fields "
        "stopped growing. It took eleven years until somebody noticed that the mud which had ruined every "
        "spring was the reason there had been a harvest every autumn. They did not pull down the wall. They cut"
        " a gate in it, and now each March they argue about which field has earned the flood.",
        "She kept a diary so that nothing would be forgotten. By forty she had thirty volumes and could not "
        "find anything in them, and what she could not find she remembered wrongly, because she no longer "
        "troubled to remember. One winter a pipe burst and took the first twelve volumes. She sat down to write"
        " what had been in them. It came to nine pages, and nothing she has written since in the diary is as "
        "true as those nine pages of what was lost.",
        "The new nurse never cried, and the families trusted her less than she deserved. The old nurse cried at"
        " every death, and the families ended up comforting her. Last week the new nurse turned away from a bed"
        " for a moment before she spoke, and nobody had to look after anybody. She had not stopped being calm. "
        "The family had seen what the calm was for.",
    ],
}

FLAT = {
    "one-sided": [
        "Public libraries are worth every penny. They lend books to families that cannot buy them, offer warm "
        "rooms in winter, and host reading groups for toddlers and pensioners. Councils spend a tiny part of "
        "their budget on them. Studies link early borrowing with better results at school. Librarians help "
        "people to fill in forms and find work. Every town deserves a good one, and politicians should protect "
        "the service with proper funding.",
        "Walking is the best exercise there is. It strengthens the heart, lifts the mood and costs nothing. "
        "Doctors recommend thirty minutes a day, and anyone can begin at any age. A brisk pace burns calories "
        "and improves sleep. City parks, forest paths and sea fronts all make excellent routes. A comfortable "
        "pair of shoes is the whole equipment. Everyone should take it up.",
        "Daily practice makes a musician. Twenty minutes of scales train the fingers, and slow work on hard "
        "bars builds accuracy. Great pianists of every period followed strict schedules. A metronome keeps the "
        "tempo steady, and a mirror shows the posture. Parents can help by setting a regular hour. With "
        "patience and discipline, steady progress follows.",
    ],
    "list": [
        "There are several ways to save energy at home. First, insulate the loft and seal the windows. Second, "
        "replace old bulbs with LED lamps. Third, wash clothes at thirty degrees and dry them on a line. "
        "Another option is a smart thermostat, which adjusts the heating room by room. Finally, solar panels, "
        "heat pumps and batteries can cut bills further.",
        "Honey has various uses. It sweetens tea, cakes and yoghurt. It soothes a sore throat, keeps for years "
        "in a sealed jar and serves as a glaze for ham or carrots. Cosmetics firms add it to soap, shampoo and "
        "cream. Bakers also value it for moisture. Other products of the hive include wax, pollen and royal "
        "jelly.",
    ],
    "hedge": [
        "Opinions differ on whether homework is useful. Some teachers value it, and others would abolish it. "
        "Much depends on the age of the pupils, the subject and the support at home. Both sides have their "
        "merits, and research results vary. In the end there is no single answer, and every school must strike "
        "a balance between practice and rest. Parents should make up their own minds.",
        "Whether to rent or buy a house is a matter of perspective. Many people prefer ownership, while others "
        "like flexibility. Prices vary by region, and interest rates often change. Some experts recommend "
        "buying early; others suggest waiting. It all depends on income, plans and family. Both have merits, "
        "and everyone must decide for themselves.",
    ],
    "history": [
        "Coffee reached Venice in the early seventeenth century. The first coffee house in London opened in "
        "1652, and by 1700 the city had hundreds. Merchants, writers and insurers met there, and Lloyd's of "
        "London began at such a table. Plantations spread to Java, Martinique and Brazil. Espresso machines "
        "were patented in Italy around 1900. Large chains followed in the 1970s and now operate across the "
        "world.",
    ],
    "how-to": [
        "Choose a sunny spot and dig the soil to the depth of a spade. Mix in compost, rake the bed and mark "
        "rows with string. Sow carrots thinly, cover them with fine earth and water gently each evening. Thin "
        "the seedlings after four weeks, leaving a finger's width around each plant. Keep weeds down with a "
        "hoe. Harvest from July and store the roots in sand.",
    ],
}

BROKEN = {
    "stuffed": [
        "However, but yet thesis antithesis synthesis. On the other hand the tension, the contradiction and the"
        " dialectic. Nevertheless a synthesis reconciles thesis and antithesis. Still, however, the opposing "
        "balance. Therefore the paradox and the contradiction reach a higher synthesis, although yet instead "
        "the antithesis.",
        *(
            " ".join(
                f"{marker} {sentence[0].lower()}{sentence[1:]}"
                for marker, sentence in zip(
                    itertools.cycle(
                        [
                            "However,",
                            "But",
                            "On the other hand, yet",
                            "The antithesis is that",
                            "In synthesis,",
                            "Still,",
                        ]
                    ),
                    re.split(r"(?<=\.) ", text),
                    strict=False,
                )
            )
            for text in FLAT["one-sided"]
        ),
    ],
    "turn words on every sentence": [
        " ".join(
            f"{turn} {sentence[0].lower()}{sentence[1:]}"
            for turn, sentence in zip(
                itertools.cycle(["It turned out that", "Nothing was as it seemed, and", "Until then, not exactly,"]),
                re.split(r"(?<=\.) ", FLAT["one-sided"][1]),
                strict=False,
            )
        )
    ],
    "repeated": [
        "The river floods the fields, but the flood brings the harvest. " * 8,
        "She had thought it was lost, but it was not. " * 10,
        " ".join(re.split(r"(?<=\.) ", GENUINE["implicit"][1])[:2] * 5),
    ],
    "nonsense": [
        "However the of because nothing a until turned synthesis my the by. Green but the not without an "
        "although seven the of window. Yet a had been thought no so the with instead lamp. The than less "
        "because what was the and river is. Therefore an of opposing the it until a nobody turned out.",
        "Table river seven lamp however glass paper tension. Antithesis orange window running but cloud metal "
        "quickly. Synthesis bicycle forest yet hammer salt opinion. Therefore marble engine thesis potato "
        "curtain. Contradiction velvet ladder although thunder coin.",
    ],
    "empty": ["", "   \n ", "...", "?!"],
    "tiny": ["Yes, but no.", "It seemed lost, and yet it was not lost; what was lost was the fear.", "42"],
}


def _scores(kinds: dict[str, list[str]]) -> list[float]:
    return [spiral_lexical(text) for texts in kinds.values() for text in texts]


def _auc(high: list[float], low: list[float]) -> float:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in high for b in low]
    return statistics.mean(wins)


def _everything() -> list[str]:
    return [text for kinds in (GENUINE, FLAT, BROKEN) for texts in kinds.values() for text in texts]


@pytest.mark.parametrize("level", list(GENUINE))
def test_genuine_texts_of_every_level_stand_above_flat_ones(level: str) -> None:
    assert _auc([spiral_lexical(text) for text in GENUINE[level]], _scores(FLAT)) >= 0.9


@pytest.mark.parametrize("kind", list(FLAT))
def test_every_kind_of_flat_text_stands_below_the_genuine_median(kind: str) -> None:
    median = statistics.median(_scores(GENUINE))
    assert max(spiral_lexical(text) for text in FLAT[kind]) < median


@pytest.mark.parametrize("kind", list(BROKEN))
def test_broken_texts_score_low(kind: str) -> None:
    scores = [spiral_lexical(text) for text in BROKEN[kind]]
    assert max(scores) < 0.35
    assert max(scores) < statistics.median(_scores(GENUINE))


@pytest.mark.parametrize("marker", ["However, ", "But ", "Yet ", "In a balance, "])
@pytest.mark.parametrize("text", [text for texts in FLAT.values() for text in texts])
def test_a_stray_marker_does_not_raise_a_flat_text(text: str, marker: str) -> None:
    sentences = re.split(r"(?<=\.) ", text)
    for i, sentence in enumerate(sentences):
        marked = [*sentences[:i], marker + sentence[0].lower() + sentence[1:], *sentences[i + 1 :]]
        assert spiral_lexical(" ".join(marked)) - spiral_lexical(text) < 0.05


@pytest.mark.parametrize("text", ["", " \n", "...", "?!", "¿¡", "\x00"])
def test_a_text_without_words_scores_exactly_zero(text: str) -> None:
    assert spiral_lexical(text) == 0.0


def test_every_score_and_component_lies_between_0_and_1() -> None:
    for text in _everything():
        found = explain_lexical(text)
        for value in (found["score"], *found["components"].values(), *found["soundness"].values()):
            assert 0.0 <= value <= 1.0


def test_the_same_text_always_gets_the_same_explanation() -> None:
    for text in _everything():
        assert explain_lexical(text) == explain_lexical(text)


def test_explain_names_the_sentences_it_read() -> None:
    found = explain_lexical(
        "The wall keeps the river out of the fields. It was thought that nothing grew without it, and the mud was the "
        "harvest. A gate in the wall lets the mud come through, so that the harvest pays for the wall."
    )
    assert [sentence.split()[0] for sentence in found["sentences"]] == ["The", "It", "A"]
    assert (found["position"], found["pushback"], found["synthesis"]) == ([0], [1], [2])
    assert set(found["components"]) | {"bias"} == set(weights("lexical"))


def test_explain_finds_nothing_in_a_text_without_words() -> None:
    found = explain_lexical("")
    assert (found["sentences"], found["position"], found["pushback"], found["synthesis"]) == ([], [], [], [])


def test_a_synthesis_needs_content_of_both_sides() -> None:
    position = "The wall keeps the river out."
    push = "Behind it the mud is missing, and nothing grows in clean sand."
    ends = {
        "both": "A gate in the wall lets the mud through in March.",
        "position only": "A taller wall of stone would keep out more of the river.",
        "neither": "Elsewhere people eat bread and sing about summer.",
    }
    held = {
        name: explain_lexical(f"{position} {push} {end}")["components"]["integration"] for name, end in ends.items()
    }
    assert held["both"] > 0.4
    assert held["position only"] == held["neither"] == 0.0


def test_two_flat_texts_end_to_end_are_not_a_dialectic() -> None:
    singles = FLAT["one-sided"]
    joined = [f"{a} {b}" for a, b in itertools.permutations(singles, 2)]
    assert statistics.mean(map(spiral_lexical, joined)) - statistics.mean(map(spiral_lexical, singles)) < 0.15


def test_a_very_long_text_stays_in_range() -> None:
    assert 0.0 <= spiral_lexical(" ".join(_everything())) <= 1.0


def test_reading_cuts_each_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(text: str) -> object:
        calls.append(text)
        return sentences_of(text)

    monkeypatch.setattr("phasegpt.metrics.components.sentences_of", counted)
    spiral_lexical(GENUINE["explicit"][0])
    assert len(calls) == 1


def test_the_weights_hash_names_this_table() -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", weights_hash())
    assert weights_hash() == weights_hash()
    assert VERSION == spiral._table()["version"] == "1.0"


def test_the_weights_hash_changes_with_a_word_list(monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights_hash()
    monkeypatch.setattr("phasegpt.metrics.words.CONNECTIVES", frozenset({"but"}))
    assert weights_hash() != before


def test_scores_are_combined_by_a_logistic_sum() -> None:
    assert combine({"a": 1.0, "b": 0.5}, {"bias": -1.0, "a": 2.0, "b": 0.0}) == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_weight_without_its_component_is_named() -> None:
    with pytest.raises(KeyError, match="integration"):
        combine({}, {"integration": 1.0})


def test_an_unknown_set_of_weights_is_named() -> None:
    with pytest.raises(KeyError, match="telepathic"):
        weights("telepathic")


def test_no_weight_is_negative() -> None:
    assert all(weight >= 0 for name, weight in weights("lexical").items() if name != "bias")


def test_the_lexical_score_is_the_score_that_explain_explains() -> None:
    text = GENUINE["moderate"][1]
    assert spiral_lexical(text) == explain_lexical(text)["score"]


@pytest.mark.parametrize(
    "opening", ["It turned out that ", "Nothing was as it seemed, and ", "On the other hand, ", "At the same time, "]
)
@pytest.mark.parametrize("every", [1, 3])
def test_turn_phrases_without_content_of_their_own_buy_nothing(opening: str, every: int) -> None:
    for text in FLAT["one-sided"]:
        assert spiral_lexical(stuffed(text, [opening], every)) - spiral_lexical(text) < 0.05


def test_most_genuine_texts_stand_above_their_own_sentences_shuffled() -> None:
    texts = [text for texts in GENUINE.values() for text in texts]
    wins = [spiral_lexical(text) > spiral_lexical(shuffled(text, seed)) for text in texts for seed in range(5)]
    assert statistics.mean(wins) >= 0.6


def test_an_opening_that_leans_on_nothing_is_out_of_place() -> None:
    true = "A wall kept the river out of the fields. But the fields stopped growing. So they cut a gate in it."
    moved = "But the fields stopped growing. So they cut a gate in it. A wall kept the river out of the fields."
    assert explain_lexical(true)["components"]["order"] > explain_lexical(moved)["components"]["order"]


def test_two_sentences_have_no_order_to_judge() -> None:
    assert explain_lexical("A wall kept the river out. The fields stopped growing.")["components"]["order"] == 0.5


def test_density_counts_pushback_and_synthesis_in_a_hundred_words() -> None:
    text = (
        "The wall keeps the river out of the fields. It was thought that nothing grew without it, and the mud was the "
        "harvest. A gate in the wall lets the mud come through, so that the harvest pays for the wall."
    )
    assert len(words_of(text)) == 41
    assert spiral_density(text) == pytest.approx(100 * 2 / 41)
    assert spiral_density("") == 0.0


def test_an_explanation_takes_a_few_milliseconds() -> None:
    text = " ".join(GENUINE["moderate"])
    start = time.process_time()
    for _ in range(20):
        explain_lexical(text)
    assert (time.process_time() - start) / 20 < 0.02


def test_forms_of_a_word_share_a_stem_and_different_words_do_not() -> None:
    assert stem("stopped") == stem("stops") == stem("stopping") == "stop"
    assert stem("saving") == stem("saved") == stem("saves")
    assert stem("families") == stem("family")
    assert stem("glass") != stem("glance")


def test_sentences_end_at_points_quotes_and_lines_and_not_at_titles() -> None:
    assert [s.text for s in sentences_of('Mr. Osei knew. "Go on." She did\nThen 3.5 more')] == [
        "Mr. Osei knew.",
        '"Go on."',
        "She did",
        "Then 3.5 more",
    ]
    assert words_of("Don’t say counter-claim, 3.5 times") == ("don't", "say", "counter-claim", "3.5", "times")
