"""Words: how a text is cut into sentences, words and stems, and the closed word lists that both metrics read.

Standard library only. Knows English, knows nothing of scores. Patterns expect lower case.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType

_TITLES = "".join(rf"(?<!\b{title}\.)" for title in ("Mr", "Mrs", "Ms", "Dr", "St", "vs", "e.g", "i.e"))
_SENTENCE_END = re.compile(rf"(?<=[.!?]){_TITLES}\s+|(?<=[.!?][\"'”’)])\s+|\n+")
_CLAUSE_END = re.compile(r"[,;:()]|\s[–—-]\s|\bthat\b")
_NAME = re.compile(r"(?<=[a-z,;:] )[A-Z][a-z]+")
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*|\d+(?:[.,]\d+)*")
_SUFFIXES = ("ingly", "edly", "ation", "ness", "ment", "ies", "ing", "ed", "es", "ly", "s")


def _set(words: str) -> frozenset[str]:
    """The words of a blank-separated list."""
    return frozenset(words.split())


FUNCTION_WORDS = _set(
    """
    a about above across after again against all almost along also although always am among an and another any
    anyone anybody anything are around as at away back be because been before behind being below beneath beside
    besides between both but by can cannot could did do does doing done down during each either else enough even
    ever every everybody everyone everything except few fewer first for from further get gets getting give given
    go goes going gone got had has have having he hence her here hers herself him himself his how however i if
    in indeed instead into is it its itself just last least less let like made make makes making many may maybe
    me might mine more most much must my myself near neither never nevertheless next no nobody none nor not
    nothing now of off often on once one ones only onto or other others otherwise ought our ours ourselves out
    over own perhaps put quite rather really said same say says second seem seemed seems shall she should since
    so some somebody someone something sometimes soon still such take taken takes than that the their theirs
    them themselves then there therefore these they thing things third this those though three through thus to
    together too took toward towards two under unless until up upon us very was way we well went were what
    whatever when whenever where whereas whether which while who whoever whole whom whose why will with within
    without would yes yet you your yours yourself
    """
)

CONNECTIVES = _set(
    """
    but yet however still though although whereas nevertheless nonetheless conversely despite rather instead
    otherwise
    """
)
TERMINOLOGY = _set(
    """
    thesis antithesis synthesis counter-thesis counterthesis dialectic dialectical dialectically tension
    tensions contradiction contradictions contradictory contradict contradicts opposing opposed opposite
    opposites opposition reconcile reconciles reconciled reconciliation paradox paradoxical paradoxically
    counterclaim counterpoint counterargument objection objections conflict conflicting contrary contraries
    contradicted negation sublate sublation balance synthesise synthesised synthesize synthesized
    """
)
MARKERS = CONNECTIVES | TERMINOLOGY
BINDING_WORDS = FUNCTION_WORDS - CONNECTIVES
ANAPHORS = _set("it they she he this that these those its their his her him them such")
LEANING_OPENERS = CONNECTIVES | _set("and or nor so then this that these those therefore thus because")

PLACE_WORDS = FUNCTION_WORDS | CONNECTIVES
PLACE_CLASSES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "contrast": CONNECTIVES,
        "someone": _set("he she him her his they them their"),
        "pointing back": ANAPHORS,
        "further": _set(
            "second third other another both neither either two these those such same also too next later last"
        ),
        "concluding": _set("so then therefore thus hence perhaps now"),
        "asking": _set("what who which how why where whoever"),
        "conditional": _set("if when once until unless"),
        "denying": _set("not no never nobody nothing none nor"),
    }
)
PERSONS: Mapping[str, str] = MappingProxyType(
    {
        word: person
        for person, words in (
            ("one", "he him his she her hers"),
            ("they", "they them their theirs"),
            ("I", "i me my"),
            ("we", "we us our"),
            ("you", "you your"),
            ("it", "it its"),
        )
        for word in words.split()
    }
)

# What turns a thought without naming the turn. Each kind is counted once a sentence.
TURNS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "denial": re.compile(
            r"\b(no|not|never|nobody|nothing|none|neither|nor|nowhere|without|cannot|\w+n't|hardly)\b"
        ),
        "appearance": re.compile(
            r"\b(seem\w*|suppos\w+|looks? like|looked like|pretend\w*|pretence|thought|meant|intend\w*|mistook|mistak"
            r"\w+|assum\w+|obvious\w*|believ\w+|expect\w*|promis\w+)\b"
        ),
        "outcome": re.compile(
            r"\b(turn(s|ed)? (out|into)|becom\w*|became|stop(s|ped)?|ceas\w+|los(t|es?|ing)|gone|missing|fail\w*"
            r"|refus\w*|chang(es|ed))\b"
        ),
        "condition": re.compile(
            r"\b(until|unless|only (when|because|once|if|by|after|where|then)|instead|no longer|any ?more|precisely"
            r"|exactly)\b"
        ),
        "revision": re.compile(r"\b(had (\w+ ){0,2}\w+(ed|en|n|t|e)|what (\w+ ){1,5}(is|was)|the (very )?same)\b"),
        "comparison": re.compile(r"\b((more|less|fewer|better|worse|\w{2,}er) (\w+ ){0,4}than|less)\b"),
        "cause": re.compile(r"\b(so|because|since|therefore|hence|which is why|then)\b"),
    }
)
SET_PHRASES = (
    r"\b(on (the )?(one|other) hand|(at|all) the same( time)?"
    r"|in (fact|truth|essence|conclusion|short|other words|the end)"
    r"|of course|for (example|instance)|as (a result|it happen(s|ed))|to be (fair|sure)|after all|by contrast)\b"
)
SAYING_NOTHING = re.compile("|".join([SET_PHRASES, *(pattern.pattern for pattern in TURNS.values())]))

LISTING = re.compile(
    r"(?:^(?:(?:but|yet|still) )?|[,:;] |\bthat )"
    r"(first|second|third|fourth|fifth|sixth|next|finally|lastly|another|also|in addition|moreover)\b"
    r"|\b(several|various|include[sd]?|including|such as|a number of)\b|\w+, (\w+ ){1,4}(and|or) "
)
VAGUE_SOURCES = re.compile(
    r"\b(some|others|many|most|critics|supporters|opponents|opinions?|views|var(y|ies)|may|might|often|usually"
    r"|generally|typically|tends?|camps?|researchers|economists|historians|philosophers|experts)\b"
)
HEDGE_FORMULAS = re.compile(
    r"\b(it (all )?depends|depends on|opinions differ|no (single|right|easy|simple) answer"
    r"|make up (their|your) own minds?|both (sides |views )?(have|has) (their |some )?(merits?|points?|a point)"
    r"|a matter of (taste|opinion|perspective)"
    r"|(everyone|each person|readers|you) (must|should|has to|can) decide|a balance (between|of)|strike a balance"
    r"|up to (you|each))\b"
)

DETERMINERS = _set("the a an my your our their its every")
NEVER_AFTER_DETERMINER = FUNCTION_WORDS - _set(
    """
    own other others same one ones two three few first second third last least less more most much next very
    many once only enough whole little way things thing still now then even again back doing nothing everything
    something will often up down inside outside over under
    """
)


@dataclass(frozen=True)
class Sentence:
    """One sentence: its text, its lower-case words in order, and the stems of its content words."""

    text: str
    words: tuple[str, ...]
    stems: frozenset[str]

    @cached_property
    def clauses(self) -> tuple[tuple[str, ...], ...]:
        """The words between two commas and their like, or after a "that", where they have content of their own.

        "It turned out that, to her surprise, it fits." has two: "it turned out" says nothing beside its turn.
        """
        cut = (words_of(part) for part in _CLAUSE_END.split(self.text.replace("’", "'").lower()))
        return tuple(filter(_says, cut))

    @cached_property
    def told(self) -> tuple[str, ...]:
        """The words of those clauses without connectives; all words where none has content."""
        return tuple(word for clause in self.clauses for word in clause if word not in CONNECTIVES) or self.words

    @cached_property
    def names(self) -> frozenset[str]:
        """The words with a capital that do not open the sentence."""
        return frozenset(_NAME.findall(self.text))

    @cached_property
    def persons(self) -> frozenset[str]:
        """Who is spoken of by pronoun: one, they, I, we, you, it."""
        return frozenset(PERSONS[word] for word in self.told if word in PERSONS)


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """The word without its commonest English endings: 'stopped' -> 'stop', 'saving' and 'saves' -> 'sav'.

    Meant to make forms of one word equal, never to be read; at least three letters stay.
    """
    word = word.removesuffix("'s").replace("'", "")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith(("ss", "ily")):
            word = word.removesuffix(suffix)
            break
    word = word.removesuffix("e").removesuffix("y").removesuffix("i") if len(word) > 3 else word
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def words_of(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, lower case, apostrophes straight."""
    return tuple(_WORD.findall(text.replace("’", "'").lower()))


def content_stems(words: tuple[str, ...]) -> frozenset[str]:
    """Stems of the words that carry content: no function words, no contractions of them, no numbers."""
    return frozenset(
        stem(word)
        for word in words
        if len(word) > 2 and word[0].isalpha() and word.split("'")[0] not in FUNCTION_WORDS and not word.endswith("n't")
    )


def _says(clause: tuple[str, ...]) -> bool:
    """Whether a clause has content beside markers, turns and set phrases: "at the same time" has not."""
    rest = SAYING_NOTHING.sub(" ", " ".join(clause)).split()
    return bool(content_stems(tuple(word for word in rest if word not in MARKERS)))


def sentences_of(text: str) -> tuple[Sentence, ...]:
    """The sentences of a text that hold at least one word, in order."""
    parts = [part.strip() for part in _SENTENCE_END.split(text)]
    cut = ((part, words_of(part)) for part in parts)
    return tuple(Sentence(part, words, content_stems(words)) for part, words in cut if words)
