"""Write the examples of the built-in tasks into the package: `python scripts/make_builtin_tasks.py`.

Five small grammars of English, one for each kind of GLUE task. Labels depend on grammar and meaning, never on a single
word, so a small encoder learns part of a task in a few hundred examples and neither fails nor saturates. A test
generates the examples again and compares. Other examples would be another task: change a grammar only under a new name.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Example = tuple[str, str | None, float]


class Dice:
    """Random choices from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[int(self._rng.integers(len(options)))]

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Return two different options."""
        first, second = self._rng.choice(len(options), 2, replace=False)
        return options[int(first)], options[int(second)]

    def chance(self, probability: float) -> bool:
        """Return True with the probability given."""
        return bool(self._rng.random() < probability)


# Lexicon. Nouns and verbs carry the forms that the grammars contrast.
PEOPLE = {
    "teacher": "person", "nurse": "person", "pilot": "person", "farmer": "person", "lawyer": "person",
    "singer": "person", "baker": "person", "soldier": "person", "doctor": "person", "clerk": "person",
}  # fmt: skip
ANIMALS = {"dog": "animal", "cat": "animal", "horse": "animal", "goat": "animal", "parrot": "animal", "fox": "animal"}
THINGS = {
    "rose": "flower", "tulip": "flower", "hammer": "tool", "saw": "tool", "guitar": "instrument",
    "violin": "instrument", "apple": "fruit", "pear": "fruit", "chair": "piece of furniture",
    "table": "piece of furniture", "truck": "vehicle", "bus": "vehicle",
}  # fmt: skip
AGENTS = {**PEOPLE, **ANIMALS}
PLACES = ("garden", "station", "kitchen", "harbour", "library", "market", "forest", "hospital")
TIMES = ("in the morning", "at night", "on Monday", "last week", "after lunch", "before the storm")
ADJECTIVES = ("young", "tall", "tired", "old", "quiet", "clever", "busy", "famous")
# infinitive, third person, past, participle, a verb that means the same, one that excludes it
VERBS = (
    ("buy", "buys", "bought", "bought", "purchased", "sold"),
    ("find", "finds", "found", "found", "discovered", "lost"),
    ("push", "pushes", "pushed", "pushed", "shoved", "pulled"),
    ("fix", "fixes", "fixed", "fixed", "repaired", "broke"),
    ("hide", "hides", "hid", "hidden", "concealed", "revealed"),
    ("praise", "praises", "praised", "praised", "applauded", "criticised"),
    ("follow", "follows", "followed", "followed", "trailed", "avoided"),
    ("take", "takes", "took", "taken", "grabbed", "returned"),
    ("clean", "cleans", "cleaned", "cleaned", "washed", "stained"),
    ("like", "likes", "liked", "liked", "enjoyed", "hated"),
)
PASSIVE = {"purchased", "discovered", "shoved", "repaired", "concealed", "applauded", "trailed", "grabbed", "washed"}


def _plural(noun: str) -> str:
    return "foxes" if noun == "fox" else "buses" if noun == "bus" else noun + "s"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# --- acceptability ----------------------------------------------------------------------------------------------------


def _acceptability(dice: Dice) -> Example:
    """Agreement across distance, verb forms, reflexives, polarity items, questions, argument structure."""
    good = dice.chance(0.5)
    return dice.pick(_ACCEPTABILITY)(dice, good), None, float(good)


def _agreement(dice: Dice, good: bool) -> str:
    head, other = dice.two(list(AGENTS))
    many, other_many = dice.chance(0.5), dice.chance(0.5)
    subject = _plural(head) if many else head
    attractor = _plural(other) if other_many else other
    verb = dice.pick(VERBS)
    link = dice.pick(
        (f"near the {attractor}", f"that the {attractor} saw", f"behind the {attractor}", f"with the {attractor}")
    )
    return f"The {subject} {link} {verb[0] if many == good else verb[1]} the {dice.pick(list(THINGS))}."


def _verb_form(dice: Dice, good: bool) -> str:
    subject, verb, thing = dice.pick(list(AGENTS)), dice.pick(VERBS), dice.pick(list(THINGS))
    frame = dice.pick((("has", 3), ("did not", 0), ("will", 0), ("was", 3), ("can", 0)))
    right = verb[frame[1]]
    wrong = dice.pick([form for form in verb[:4] if form != right])
    form = right if good else wrong
    if frame[0] == "was":
        return f"The {thing} was {form} by the {subject}."
    return f"The {subject} {frame[0]} {form} the {thing} {dice.pick(TIMES)}."


def _reflexive(dice: Dice, good: bool) -> str:
    head, other = dice.two(list(PEOPLE))
    many = dice.chance(0.5)
    subject, attractor = (_plural(head), other) if many else (head, _plural(other))
    own, wrong = ("themselves", "himself") if many else ("himself", "themselves")
    verb = dice.pick(("praised", "blamed", "hid", "washed", "saw"))
    return f"The {subject} who met the {attractor} {verb} {own if good else wrong} {dice.pick(TIMES)}."


def _polarity(dice: Dice, good: bool) -> str:
    subject, other = dice.two(list(PEOPLE))
    verb, thing = dice.pick(VERBS), _plural(dice.pick(list(THINGS)))
    if good:
        return dice.pick(
            (
                f"No {subject} who knew the {other} ever {verb[2]} any {thing}.",
                f"The {subject} who knew the {other} did not {verb[0]} any {thing}.",
                f"Nobody who no longer trusted the {other} {verb[2]} any {thing}.",
            )
        )
    return dice.pick(
        (
            f"The {subject} who knew no {other} ever {verb[2]} any {thing}.",
            f"The {subject} who did not know the {other} {verb[2]} any {thing}.",
            f"Somebody who no longer trusted the {other} {verb[2]} any {thing}.",
        )
    )


def _question(dice: Dice, good: bool) -> str:
    subject, verb, thing = dice.pick(list(AGENTS)), dice.pick(VERBS), dice.pick(list(THINGS))
    place = dice.pick(PLACES)
    if good:
        return dice.pick(
            (
                f"What did the {subject} {verb[0]} in the {place}?",
                f"Where did the {subject} {verb[0]} the {thing}?",
                f"Who {verb[2]} the {thing} in the {place}?",
            )
        )
    return dice.pick(
        (
            f"What did the {subject} {verb[0]} the {thing} in the {place}?",
            f"Where the {subject} did {verb[0]} the {thing}?",
            f"Who did {verb[2]} the {thing} in the {place}?",
        )
    )


def _arguments(dice: Dice, good: bool) -> str:
    subject, thing, place = dice.pick(list(AGENTS)), dice.pick(list(THINGS)), dice.pick(PLACES)
    if good:
        return dice.pick(
            (
                f"The {subject} slept in the {place} {dice.pick(TIMES)}.",
                f"The {subject} put the {thing} in the {place}.",
                f"The {subject} relied on the {thing} in the {place}.",
            )
        )
    return dice.pick(
        (
            f"The {subject} slept the {thing} in the {place} {dice.pick(TIMES)}.",
            f"The {subject} put in the {place} {dice.pick(TIMES)}.",
            f"The {subject} relied the {thing} in the {place}.",
        )
    )


def _word_order(dice: Dice, good: bool) -> str:
    subject, thing, adjective = dice.pick(list(AGENTS)), dice.pick(list(THINGS)), dice.pick(ADJECTIVES)
    verb, place = dice.pick(VERBS)[2], dice.pick(PLACES)
    if good:
        return dice.pick(
            (
                f"The {adjective} {subject} {verb} the {thing} in the {place}.",
                f"The {subject} quietly {verb} a {adjective} {thing}.",
            )
        )
    return dice.pick(
        (
            f"The {subject} {adjective} {verb} the {thing} in the {place}.",
            f"The {adjective} {subject} {verb} {thing} the in the {place}.",
            f"The {subject} {verb} quietly a {thing} {adjective}.",
            f"{adjective.capitalize()} the {subject} {verb} the {thing} the {place} in.",
        )
    )


_ACCEPTABILITY = (
    _agreement,
    _verb_form,
    _verb_form,
    _reflexive,
    _polarity,
    _question,
    _arguments,
    _word_order,
    _word_order,
)


# --- sentiment --------------------------------------------------------------------------------------------------------

_ASPECTS = ("plot", "acting", "music", "ending", "dialogue", "camera work", "pacing", "cast", "script", "humour")
_GOOD = ("moving", "sharp", "warm", "funny", "fresh", "elegant", "gripping", "honest", "bright", "memorable")
_BAD = ("dull", "clumsy", "tired", "hollow", "noisy", "shallow", "predictable", "lifeless", "messy", "forced")


def _opinion(dice: Dice, positive: bool) -> str:
    """A clause whose polarity may come through a negation, so that its adjective alone does not tell."""
    aspect = dice.pick(_ASPECTS)
    right, wrong = (_GOOD, _BAD) if positive else (_BAD, _GOOD)
    if dice.chance(0.55):
        return dice.pick(
            (
                f"the {aspect} is never {dice.pick(wrong)}",
                f"nobody could call the {aspect} {dice.pick(wrong)}",
                f"the {aspect} is anything but {dice.pick(wrong)}",
                f"the {aspect} is far from {dice.pick(wrong)}",
                f"the {aspect} could easily have been {dice.pick(wrong)}",
                f"nobody could call the {aspect} anything but {dice.pick(right)}",
                f"it is not true that the {aspect} is never {dice.pick(right)}",
            )
        )
    return dice.pick(
        (
            f"the {aspect} is {dice.pick(right)}",
            f"the {aspect} feels truly {dice.pick(right)}",
            f"the {aspect} stays {dice.pick(right)} throughout",
            f"few would deny that the {aspect} is {dice.pick(right)}",
        )
    )


def _sentiment(dice: Dice) -> Example:
    """Film reviews; of two opposed clauses the structure says which one the writer means."""
    positive = dice.chance(0.5)
    main = _opinion(dice, positive)
    if dice.chance(0.35):
        text = f"{main}."
    else:
        other = _opinion(dice, not positive)
        text = dice.pick(
            (
                f"{other}, but {main}, and that is what counts.",
                f"although {other}, {main}.",
                f"{main}, even though {other}.",
                f"critics claim that {other}; I say {main}.",
                f"I had read that {other}. In fact {main}.",
                f"{main}, which makes up for the fact that {other}."
                if positive
                else f"{main}, which spoils the fact that {other}.",
            )
        )
    return text[0].upper() + text[1:], None, float(positive)


# --- entailment -------------------------------------------------------------------------------------------------------

CONTRADICTION, NEUTRAL, ENTAILMENT = 0, 1, 2


def _entailment(dice: Dice) -> Example:
    """Word classes, adjectives, quantifiers, negation, roles; `no` and `every` turn the direction round."""
    wanted = dice.pick((CONTRADICTION, NEUTRAL, ENTAILMENT))
    while True:  # a pattern is drawn until one gives the label wanted, which keeps the classes balanced
        premise, hypothesis, label = dice.pick(_ENTAILMENT)(dice)
        if label == wanted:
            return premise, hypothesis, float(label)


def _class_step(dice: Dice) -> tuple[str, str, int]:
    agent, thing = dice.pick(list(AGENTS)), dice.pick(list(THINGS))
    verb, up = dice.pick(VERBS)[2], dice.chance(0.5)
    low, high = f"The {agent} {verb} {_article(thing)}.", f"The {agent} {verb} {_article(THINGS[thing])}."
    return (low, high, ENTAILMENT) if up else (high, low, NEUTRAL)


def _quantifier(dice: Dice) -> tuple[str, str, int]:
    agent, verb, thing = dice.pick(list(AGENTS)), dice.pick(VERBS)[2], dice.pick(list(THINGS))
    adjective = dice.pick(ADJECTIVES)
    rest = f"{verb} the {thing}."
    return dice.pick(
        (
            (f"Every {agent} {rest}", f"Every {adjective} {agent} {rest}", ENTAILMENT),
            (f"Every {adjective} {agent} {rest}", f"Every {agent} {rest}", NEUTRAL),
            (f"No {agent} {rest}", f"No {adjective} {agent} {rest}", ENTAILMENT),
            (f"No {adjective} {agent} {rest}", f"No {agent} {rest}", NEUTRAL),
            (f"No {agent} {rest}", f"Some {adjective} {agent} {rest}", CONTRADICTION),
            (f"Every {agent} {rest}", f"Not every {adjective} {agent} {rest}", CONTRADICTION),
            (f"Some {adjective} {agent} {rest}", f"Some {agent} {rest}", ENTAILMENT),
            (f"Some {agent} {rest}", f"Some {adjective} {agent} {rest}", NEUTRAL),
        )
    )


def _opposite(dice: Dice) -> tuple[str, str, int]:
    agent, thing, place = dice.pick(list(AGENTS)), dice.pick(list(THINGS)), dice.pick(PLACES)
    verb = dice.pick(VERBS)
    premise = f"The {agent} {verb[2]} the {thing} in the {place}."
    return dice.pick(
        (
            (premise, f"The {agent} did not {verb[0]} the {thing}.", CONTRADICTION),
            (premise, f"Nobody in the {place} {verb[2]} the {thing}.", CONTRADICTION),
            (premise, f"The {thing} was {verb[3]} by {_article(agent)}.", ENTAILMENT),
            (premise, f"Somebody {verb[4]} the {thing}.", ENTAILMENT) if agent in PEOPLE else
            (premise, f"The {agent} {verb[4]} something.", ENTAILMENT),
            (premise, f"The {agent} did not {verb[0]} the {thing} in the {dice.pick(PLACES)} alone.", NEUTRAL),
            (premise, f"The {agent} {verb[2]} the {thing} {dice.pick(TIMES)}.", NEUTRAL),
        )
    )  # fmt: skip


def _roles(dice: Dice) -> tuple[str, str, int]:
    one, other = dice.two(list(AGENTS))
    verb, time = dice.pick(VERBS), dice.pick(TIMES)
    premise = f"The {one} {verb[2]} the {other} {time}."
    return dice.pick(
        (
            (premise, f"The {other} was {verb[3]} by the {one}.", ENTAILMENT),
            (premise, f"The {one} was {verb[3]} by the {other}.", NEUTRAL),
            (premise, f"The {other} {verb[2]} the {one}.", NEUTRAL),
            (premise, f"The {other} was never {verb[3]} by the {one}.", CONTRADICTION),
        )
    )


def _counting(dice: Dice) -> tuple[str, str, int]:
    numbers = ("two", "three", "four", "five", "six", "seven")
    small, large = sorted(dice.two(range(len(numbers))))
    low, high = numbers[small], numbers[large]
    event = f"{_plural(dice.pick(list(AGENTS)))} {dice.pick(VERBS)[2]} the {dice.pick(list(THINGS))}."
    return dice.pick(
        (
            (f"Exactly {high} {event}", f"At least {low} {event}", ENTAILMENT),
            (f"At least {low} {event}", f"At least {high} {event}", NEUTRAL),
            (f"Exactly {low} {event}", f"At least {high} {event}", CONTRADICTION),
            (f"At most {low} {event}", f"Exactly {high} {event}", CONTRADICTION),
        )
    )


_ENTAILMENT = (_class_step, _quantifier, _opposite, _roles, _counting)


# --- paraphrase -------------------------------------------------------------------------------------------------------


def _paraphrase(dice: Dice) -> Example:
    """The same said otherwise (voice, synonyms, order), or something else said in nearly the same words."""
    same = dice.chance(0.5)
    one, other = dice.two(list(AGENTS))
    verb, time, place = dice.pick(VERBS), dice.pick(TIMES), dice.pick(PLACES)
    first = f"The {one} {verb[2]} the {other} in the {place} {time}."
    if dice.chance(0.5):
        first = f"{time.capitalize()}, the {one} {verb[2]} the {other} in the {place}."
    if same:
        said = verb[4] if dice.chance(0.5) else verb[2]
        passive = verb[4] if verb[4] in PASSIVE and dice.chance(0.5) else verb[3]
        second = dice.pick(
            (
                f"The {other} was {passive} by the {one} in the {place} {time}.",
                f"It was the {one} that {said} the {other} in the {place} {time}.",
                f"In the {place}, the {one} {said} the {other} {time}.",
                f"{time.capitalize()}, in the {place}, the {other} was {passive} by the {one}.",
            )
        )
    else:
        second = dice.pick(
            (
                f"The {one} was {verb[3]} by the {other} in the {place} {time}.",
                f"It was the {other} that {verb[2]} the {one} in the {place} {time}.",
                f"In the {place}, the {one} {verb[5]} the {other} {time}.",
                f"{time.capitalize()}, in the {place}, the {one} was {verb[3]} by the {other}.",
                f"The {other} was not {verb[3]} by the {one} in the {place} {time}.",
                f"The {other} was {verb[3]} by {_article(dice.pick(list(THINGS)))} in the {place} {time}.",
                f"In the {place}, the {one} {verb[2]} the {dice.pick(list(THINGS))} {time}.",
                f"{time.capitalize()}, the {one} {dice.pick(VERBS)[5]} the {other} in the {dice.pick(PLACES)}.",
            )
        )
    return first, second, float(same)


# --- graded similarity ------------------------------------------------------------------------------------------------


def _similarity(dice: Dice) -> Example:
    """Two reports; 5 points for the same event: who 1.5, did what 1.5, to what 1, where 0.5, when 0.5.

    A word of the same class counts half, a synonym of the verb in full, its opposite nothing.
    """
    agents, things = list(AGENTS), list(THINGS)
    who, what, verb = dice.pick(agents), dice.pick(things), dice.pick(VERBS)
    place, time = dice.pick(PLACES), dice.pick(TIMES)
    score, alike = 0.0, float(dice.pick((0.15, 0.4, 0.65, 0.9)))

    def choose(options: Sequence[str], current: str, classes: dict[str, str] | None, points: float) -> str:
        nonlocal score
        new = current if dice.chance(alike) else dice.pick(options)
        same_class = classes is not None and classes[new] == classes[current]
        score += points if new == current else points / 2 if same_class else 0.0
        return new

    who2 = choose(agents, who, AGENTS, 1.5)
    what2 = choose(things, what, THINGS, 1.0)
    verb2 = verb if dice.chance(alike) else dice.pick(VERBS)
    score += 1.5 if verb2 == verb else 0.0
    place2, time2 = choose(PLACES, place, None, 0.5), choose(TIMES, time, None, 0.5)
    first = f"The {who} {verb[2]} the {what} in the {place} {time}."
    did = verb2[4] if dice.chance(0.4) else verb2[2]
    if dice.chance(0.12):
        did, score = verb2[5], score - (1.5 if verb2 == verb else 0.0)
    second = dice.pick(
        (
            f"The {who2} {did} the {what2} in the {place2} {time2}.",
            f"{time2.capitalize()}, in the {place2}, the {who2} {did} the {what2}.",
            f"It was the {what2} that the {who2} {did} in the {place2} {time2}.",
        )
    )
    return first, second, score


# --- the tasks --------------------------------------------------------------------------------------------------------

PLACE = Path(__file__).resolve().parents[1] / "src" / "supertickets" / "tasks" / "builtin.parquet"
TASKS: dict[str, tuple[Callable[[Dice], Example], int, int]] = {  # grammar, training examples, dev examples
    "acceptability": (_acceptability, 640, 500),
    "entailment": (_entailment, 480, 400),  # the default task: the smallest, so that a study takes minutes on two cores
    "paraphrase": (_paraphrase, 640, 500),
    "sentiment": (_sentiment, 640, 500),
    "similarity": (_similarity, 640, 500),
}


def examples() -> Iterator[dict[str, Any]]:
    """Every example, each task's in order; no text of a dev set is in the training set."""
    for seed, (task, (make, train, dev)) in enumerate(TASKS.items()):
        dice = Dice(seed)
        found: dict[tuple[str, str | None], float] = {}
        while len(found) < train + dev:
            text, pair, target = make(dice)
            found.setdefault((text, pair), target)
        for row, ((text, pair), target) in enumerate(found.items()):
            yield {
                "task": task, "split": "train" if row < train else "dev", "text": text, "pair": pair, "target": target,
            }  # fmt: skip


def main() -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(list(examples()))
    parquet.write_table(table, PLACE, compression="zstd", compression_level=22, use_dictionary=["task", "split"])
    print(f"{PLACE}: {table.num_rows} examples, {PLACE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
