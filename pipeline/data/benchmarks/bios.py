"""Generated biographies: questions about one attribute of one person, among biographies of other people.

Each attribute is told as full name, fixed phrase, value ("Alice Moreau was born in Lisbon"), and the answer lead is
name and phrase: what precedes the value in the text. Distractors that share the first or the last name with the
person asked about, and values that several relations have in common, are what a model gets distracted by.

A full name belongs to one share by its place in the name lists, whatever the seed: to one split, or to the people
that only the recipe of models/tiny-base sees. A split's people are four grids of k first by k last names; beyond 6,400
people some of these are double ("Evamaria", "Moreauvrba"), which no other name is a part of. Questions
without answers are asked about train's people, questions of the difficulty surface about test's.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from random import Random
from typing import Literal, NamedTuple

from ruamel.yaml import YAML

from pipeline.common.tables import Benchmark, Document, Evidence, Example, subset_of
from pipeline.data import splits
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.settings import GoldPosition


class Relation(NamedTuple):
    """One attribute: "{opening}{name} {phrase} {value}{closing}." tells it, `question` asks for it."""

    phrase: str
    question: str
    paraphrases: list[str]
    values: list[str]
    openings: list[str]
    closings: list[str]


_WORDS = YAML(typ="safe").load(resources.files(__package__).joinpath("bios_words.yaml").read_text(encoding="utf-8"))
FIRST_NAMES: list[str] = _WORDS["first_names"]
LAST_NAMES: list[str] = _WORDS["last_names"]
RELATIONS = [Relation(**relation) for relation in _WORDS["relations"]]

SHARES = ("pretraining", "train", "dev", "test")
PLAIN_SIDE = min(len(FIRST_NAMES), len(LAST_NAMES)) // len(SHARES)
"""The side of the largest grid without double names."""
MAX_SIDE = PLAIN_SIDE * min(len(FIRST_NAMES), len(LAST_NAMES))
FACTS_PER_PERSON = (5, 6)


class Fact(NamedTuple):
    """The attribute that one sentence, characters [start, end) of the text, tells."""

    relation: int
    value: str
    start: int
    end: int


class Biography(NamedTuple):
    """A document and its facts, in the order of its sentences."""

    document: Document
    facts: list[Fact]


def biography(
    document_id: str, name: str, random: Random, facts_per_person: Sequence[int] = FACTS_PER_PERSON
) -> Biography:
    """Write a person's biography: a drawn number of the eight attributes, with drawn values, in a drawn order."""
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
    """Word question and answer lead for one fact of a person; `random` draws one of the question's wordings."""
    relation = RELATIONS[fact.relation]
    question = relation.question if random is None else random.choice((relation.question, *relation.paraphrases))
    return question.format(name=name), f"{name} {relation.phrase}"


def _names(names: list[str], place: int, count: int) -> list[str]:
    """Every fourth name from `place` on; if that is not enough, also the double names that begin with one of them."""
    plain = names[place :: len(SHARES)]
    if count <= len(plain):
        return plain
    return plain + [first + second.lower() for first in plain for second in names if second != first]


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
            firsts = random.sample(_names(FIRST_NAMES, grid, side), side)
            lasts = random.sample(_names(LAST_NAMES, (number - grid) % len(SHARES), side), side)
            self.names += [f"{first} {last}" for first in firsts for last in lasts]
        self.document_ids = [f"bios-{share}-{name.lower().replace(' ', '-')}" for name in self.names]
        self.biography = lru_cache(maxsize=8192)(self._biography)

    def __len__(self) -> int:
        return len(self.names)

    def random(self, *key: object) -> Random:
        """Make random numbers that depend on nothing but seed, share and key."""
        return Random("/".join(map(str, ("bios", self._seed, self.share, *key))))

    def shares_name(self, person: int, other: int) -> bool:
        """Tell whether two people have the first or the last name in common."""
        row, column = divmod(person, self.side)
        other_row, other_column = divmod(other, self.side)
        return row == other_row or (column == other_column and row // self.side == other_row // self.side)

    def distractors(self, person: int, count: int, sharing_rate: float, random: Random) -> list[int]:
        """Draw `count` others; of the first m of them, rate * m share one name with the person, for every m.

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


SHARE_OF = {"unlabelled": "train", "surface": "test"}  # of the other splits, the share of the same name
PEOPLE_PER_QUESTION = 0.75

Wording = Literal["fixed", "paraphrased"]


class SplitQuestions(NamedTuple):
    """Questions of a split; each is asked once for every combination of context size and name-sharing rate.

    The rate is the share of the distractors that have a name in common with the person asked about. Split `surface`
    alone has several rates; an example's `subset` names its rate there.
    """

    split: str
    num_questions: int
    num_documents: Sequence[int]
    name_sharing_rates: Sequence[float]


def generate(
    seed: int,
    asked: Sequence[SplitQuestions],
    *,
    gold_position: GoldPosition = "spread",
    facts_per_person: Sequence[int] = FACTS_PER_PERSON,
    wording: Wording = "fixed",
) -> Benchmark:
    """Generate documents and examples of the splits `train`, `unlabelled`, `dev`, `test` and `surface`.

    The larger context of a question holds the distractors of the smaller one, and the gold document's place is drawn
    for each. Unlabelled questions have no answers, and no field tells where these stand. Equal arguments give equal
    results; the settings (runtime/settings.py, BiosData) explain them.

    Raises:
        ConfigError: a context needs more people than there are, or the same size is asked for twice.
    """
    people_of: dict[str, People] = {}
    for split, num_questions, sizes, rates in asked:
        if len(set(sizes)) != len(sizes):
            raise ConfigError(f"data.{split}_documents has a size twice: {list(sizes)}; name each size once")
        if num_questions:
            side = max(_side(split, num_questions, max(sizes), rate, min(facts_per_person)) for rate in rates)
            people_of[split] = People(seed, SHARE_OF.get(split, split), side, facts_per_person)
    everyone = ((people, person) for people in people_of.values() for person in range(len(people)))
    return Benchmark(
        splits.distinct(people.biography(person).document for people, person in everyone),
        (
            example
            for questions in asked
            if questions.num_questions
            for rate in questions.name_sharing_rates
            for example in _examples(questions, people_of[questions.split], rate, gold_position, wording)
        ),
    )


def _examples(
    asked: SplitQuestions, people: People, sharing_rate: float, gold_position: GoldPosition, wording: Wording
) -> Iterator[Example]:
    split, sizes = asked.split, asked.num_documents
    # The other splits of a share ask other questions over other contexts.
    key = () if split == people.share else (split,)
    facts_each = min(people.facts_per_person)
    num_facts = len(people) * facts_each
    # Every fact is asked once before any is asked again, among other distractors.
    order = people.random(*key, "order").sample(range(num_facts), num_facts)
    for index in range(asked.num_questions):
        person, fact_index = divmod(order[index % num_facts], facts_each)
        random = people.random(*key, "context", index)
        distractors = people.distractors(person, max(sizes) - 1, sharing_rate, random)
        fact = people.biography(person).facts[fact_index]
        drawn = people.random(*key, "wording", index) if wording == "paraphrased" else None
        question, answer_lead = ask(people.names[person], fact, drawn)
        question_id = f"bios-{split}-{index}"
        gold_id = people.document_ids[person]
        for size in sizes:
            document_ids = [people.document_ids[other] for other in random.sample(distractors[: size - 1], size - 1)]
            place = {"spread": random.randrange(size), "first": 0, "middle": size // 2, "last": size - 1}[gold_position]
            document_ids.insert(place, gold_id)
            known = split != "unlabelled"
            yield splits.example(
                "bios",
                split,
                question_id,
                question,
                [fact.value] if known else [],
                document_ids,
                [Evidence(gold_id, fact.start, fact.end)] if known else [],
                example_id=f"{question_id}-in-{size}" + (f"-sharing-{sharing_rate:g}" if split == "surface" else ""),
                answer_lead=answer_lead,
                subset=subset_of(sharing_rate) if split == "surface" else "",
            )


def _side(split: str, num_questions: int, num_documents: int, sharing_rate: float, facts_each: int) -> int:
    """Find the smallest grid that has three people for four questions and enough for every context.

    There are more people where each has fewer facts than usual, so that as many facts can be asked. Double names are
    for more questions than there are facts of people with plain names, not for larger contexts.
    """
    num_distractors = num_documents - 1
    max_sharing = math.ceil(sharing_rate * num_distractors)
    max_others = num_distractors - math.floor(sharing_rate * num_distractors)
    people_per_question = PEOPLE_PER_QUESTION * max(1.0, FACTS_PER_PERSON[0] / facts_each)
    wanted = math.ceil(math.sqrt(people_per_question * num_questions / len(SHARES)))
    if num_questions <= len(SHARES) * PLAIN_SIDE**2 * facts_each:
        wanted = min(wanted, PLAIN_SIDE)
    largest = max(PLAIN_SIDE, min(wanted, MAX_SIDE))
    for side in range(max(1, min(wanted, largest)), largest + 1):
        num_namesakes = 2 * (side - 1)
        if num_namesakes >= max_sharing and len(SHARES) * side**2 - 1 - num_namesakes >= max_others:
            return side
    raise ConfigError(
        f"data.{split}_documents {num_documents} with data.name_sharing_rate {sharing_rate} needs {max_sharing:,} "
        f"people who share a name and {max_others:,} who do not; there are {2 * (largest - 1):,} and "
        f"{len(SHARES) * largest**2 - 1 - 2 * (largest - 1):,}; lower one of the two"
    )
