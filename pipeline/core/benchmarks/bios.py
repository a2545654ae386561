"""Generated biographies: questions about one attribute of one person, among biographies of other people.

Each attribute is told as full name, fixed phrase, value ("Alice Moreau was born in Lisbon"), and the answer lead is
name and phrase: what precedes the value in the text. Distractors that share the first or the last name with the
person asked about, and values that several relations have in common, are what a model gets distracted by.

A full name belongs to one share by its place in the name lists, whatever the seed: to one split, or to the people
that only the recipe of models/tiny-base sees. A split's people are four grids of k first by k last names.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import NamedTuple

from pipeline.core.benchmarks.bios_words import FIRST_NAMES, LAST_NAMES, RELATIONS
from pipeline.core.documents import Benchmark, Document, Evidence, Example
from pipeline.errors import ConfigError

SHARES = ("pretraining", "train", "dev", "test")
MAX_SIDE = min(len(FIRST_NAMES), len(LAST_NAMES)) // len(SHARES)
FACTS_PER_PERSON = (5, 6)
PEOPLE_PER_QUESTION = 0.75


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


def biography(document_id: str, name: str, random: Random) -> Biography:
    """Tell five or six of the eight attributes of a person, with drawn values, in a drawn order."""
    numbers = random.sample(range(len(RELATIONS)), random.choice(FACTS_PER_PERSON))
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


def ask(name: str, fact: Fact) -> tuple[str, str]:
    """Question and answer lead for one fact of a person."""
    relation = RELATIONS[fact.relation]
    return relation.question.format(name=name), f"{name} {relation.phrase}"


class People:
    """The people of one share: 4 * side**2 numbered full names with their biographies.

    Each run of side**2 people is a grid: a row is a first name, a column a last name; grids have no name in common.
    """

    def __init__(self, seed: int, share: str, side: int) -> None:
        self.share = share
        self.side = side
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
        return biography(self.document_ids[person], name, self.random("life", name))


def generate(
    *,
    seed: int,
    num_questions: Mapping[str, int],
    num_documents: Mapping[str, Sequence[int]],
    name_sharing_rate: float,
) -> Benchmark:
    """Documents and examples of the splits `train`, `dev`, `test`, as generators.

    A question is asked once for each entry of num_documents[split]; the larger context holds the distractors of the
    smaller one, and the gold document's place is drawn for each. Equal arguments give equal results.

    Raises:
        ConfigError: a context needs more people than there are, or the same size is asked for twice.
    """
    pools = []
    for split, count in num_questions.items():
        sizes = num_documents[split]
        if len(set(sizes)) != len(sizes):
            raise ConfigError(f"data.{split}_documents has a size twice: {list(sizes)}; name each size once")
        if count:
            side = _side(split, count, max(sizes), name_sharing_rate)
            pools.append((People(seed, split, side), count, sizes))
    return Benchmark(
        documents=(people.biography(person).document for people, _, _ in pools for person in range(len(people))),
        examples=(
            example for people, count, sizes in pools for example in _examples(people, count, sizes, name_sharing_rate)
        ),
    )


def _examples(people: People, count: int, sizes: Sequence[int], sharing_rate: float) -> Iterator[Example]:
    num_facts = len(people) * FACTS_PER_PERSON[0]
    # Every fact is asked once before any is asked again, among other distractors.
    order = people.random("order").sample(range(num_facts), num_facts)
    for index in range(count):
        person, fact_index = divmod(order[index % num_facts], FACTS_PER_PERSON[0])
        random = people.random("context", index)
        distractors = people.distractors(person, max(sizes) - 1, sharing_rate, random)
        fact = people.biography(person).facts[fact_index]
        question, answer_lead = ask(people.names[person], fact)
        question_id = f"bios-{people.share}-{index}"
        gold_id = people.document_ids[person]
        for size in sizes:
            document_ids = [people.document_ids[other] for other in random.sample(distractors[: size - 1], size - 1)]
            gold_position = random.randrange(size)
            document_ids.insert(gold_position, gold_id)
            yield Example(
                example_id=f"{question_id}-in-{size}",
                question_id=question_id,
                benchmark="bios",
                split=people.share,
                question=question,
                answer_lead=answer_lead,
                answers=[fact.value],
                document_ids=document_ids,
                gold_document_ids=[gold_id],
                evidence=[Evidence(gold_id, fact.start, fact.end)],
                gold_position=gold_position,
            )


def _side(split: str, num_questions: int, num_documents: int, sharing_rate: float) -> int:
    """The smallest grid that has three people for four questions (if names allow) and enough for every context."""
    num_distractors = num_documents - 1
    max_sharing = math.ceil(sharing_rate * num_distractors)
    max_others = num_distractors - math.floor(sharing_rate * num_distractors)
    wanted = math.ceil(math.sqrt(PEOPLE_PER_QUESTION * num_questions / len(SHARES)))
    for side in range(max(1, min(wanted, MAX_SIDE)), MAX_SIDE + 1):
        num_namesakes = 2 * (side - 1)
        if num_namesakes >= max_sharing and len(SHARES) * side**2 - 1 - num_namesakes >= max_others:
            return side
    raise ConfigError(
        f"data.{split}_documents {num_documents} with data.name_sharing_rate {sharing_rate} needs {max_sharing:,} "
        f"people who share a name and {max_others:,} who do not; there are {2 * (MAX_SIDE - 1):,} and "
        f"{len(SHARES) * MAX_SIDE**2 - 1 - 2 * (MAX_SIDE - 1):,}; lower one of the two"
    )
