"""The people of the generated biographies: their names, and what their documents tell.

A full name belongs to one share by its place in the name lists, whatever the seed: to one split, or to the people
that only the recipe of models/tiny-base sees. A split's people are four grids of k first by k last names.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import NamedTuple

from pipeline.common.documents import Document
from pipeline.data.benchmarks.bios_words import FIRST_NAMES, LAST_NAMES, RELATIONS

SHARES = ("pretraining", "train", "dev", "test")
MAX_SIDE = min(len(FIRST_NAMES), len(LAST_NAMES)) // len(SHARES)
FACTS_PER_PERSON = (5, 6)


class Fact(NamedTuple):
    """What one sentence, characters [start, end) of the text, tells."""

    relation: int
    value: str
    start: int
    end: int


class Biography(NamedTuple):
    """A document and what it tells, in the order of its sentences."""

    document: Document
    facts: list[Fact]


def biography(
    document_id: str, name: str, random: Random, facts_per_person: Sequence[int] = FACTS_PER_PERSON
) -> Biography:
    """Tell so many of the eight attributes of a person, with drawn values, in a drawn order."""
    numbers = random.sample(range(len(RELATIONS)), random.choice(facts_per_person))
    sentences: list[str] = []
    facts: list[Fact] = []
    start = 0
    for number in numbers:
        relation = RELATIONS[number]
        value = random.choice(relation.values)
        opening, closing = random.choice(relation.openings), random.choice(relation.closings)
        sentence = f"{opening}{name} {relation.phrase} {value}{closing}."
        sentences.append(sentence)
        facts.append(Fact(number, value, start, start + len(sentence)))
        start += len(sentence) + 1
    return Biography(Document(document_id, name, " ".join(sentences), whole=True), facts)


def ask(name: str, fact: Fact, random: Random | None = None) -> tuple[str, str]:
    """Question and answer lead for one fact of a person; `random` draws one of the question's wordings."""
    relation = RELATIONS[fact.relation]
    question = relation.question if random is None else random.choice((relation.question, *relation.paraphrases))
    return question.format(name=name), f"{name} {relation.phrase}"


class People:
    """The people of one share: 4 * side**2 numbered full names with their biographies.

    Each run of side**2 people is a grid: a row is a first name, a column a last name; grids have no name in common.
    """

    def __init__(self, seed: int, share: str, side: int, facts_per_person: Sequence[int] = FACTS_PER_PERSON) -> None:
        self.share = share
        self.side = side
        self.facts_per_person = tuple(facts_per_person)
        self._seed = seed
        number = SHARES.index(share)
        random = self.random("names")
        self.names: list[str] = []
        for grid in range(len(SHARES)):
            # (first + last) % 4 is a full name's share.
            firsts = random.sample(FIRST_NAMES[grid :: len(SHARES)], side)
            lasts = random.sample(LAST_NAMES[(number - grid) % len(SHARES) :: len(SHARES)], side)
            self.names += [f"{first} {last}" for first in firsts for last in lasts]
        self.document_ids = [f"bios-{share}-{name.lower().replace(' ', '-')}" for name in self.names]
        self.biography = lru_cache(maxsize=8192)(self._biography)

    def __len__(self) -> int:
        return len(self.names)

    def random(self, *key: object) -> Random:
        """Random numbers that depend on nothing but seed, share and key."""
        return Random("/".join(map(str, ("bios", self._seed, self.share, *key))))

    def shares_name(self, person: int, other: int) -> bool:
        """Do two people have the first or the last name in common?"""
        row, column = divmod(person, self.side)
        other_row, other_column = divmod(other, self.side)
        return row == other_row or (column == other_column and row // self.side == other_row // self.side)

    def distractors(self, person: int, count: int, sharing_rate: float, random: Random) -> list[int]:
        """`count` others; of the first m of them, rate * m share one name with the person, for every m.

        The number is rounded up or down, by one draw per question, so that the rate is exact on average.
        """
        shift = random.random()
        steps = [math.floor(sharing_rate * m + shift) for m in range(count + 1)]
        namesakes = iter(self._namesakes(person, steps[-1], random))
        others = self._others(person, random)
        return [next(namesakes) if now > before else next(others) for before, now in pairwise(steps)]

    def _namesakes(self, person: int, count: int, random: Random) -> Iterator[int]:
        row, column = divmod(person, self.side)
        first_row = row - row % self.side
        for place in random.sample(range(2 * (self.side - 1)), count):
            shares_last, skip = divmod(place, self.side - 1)
            if shares_last:
                other_row = first_row + skip
                yield (other_row + (other_row >= row)) * self.side + column
            else:
                yield row * self.side + skip + (skip >= column)

    def _others(self, person: int, random: Random) -> Iterator[int]:
        seen: set[int] = set()
        while True:
            other = random.randrange(len(self))
            if other not in seen and not self.shares_name(person, other):
                seen.add(other)
                yield other

    def _biography(self, person: int) -> Biography:
        # By name, not by number: a person has the same life however many questions are asked.
        name = self.names[person]
        return biography(self.document_ids[person], name, self.random("life", name), self.facts_per_person)
