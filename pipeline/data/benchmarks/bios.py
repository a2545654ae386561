"""Generated biographies: questions about one attribute of one person, among biographies of other people.

Each attribute is told as full name, fixed phrase, value ("Alice Moreau was born in Lisbon"), and the answer lead is
name and phrase: what precedes the value in the text. Distractors that share the first or the last name with the
person asked about, and values that several relations have in common, are what a model gets distracted by.

Questions without answers are asked about train's people, those of the difficulty surface about test's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline.common.documents import Benchmark, Document, Evidence, Example, subset_of
from pipeline.data.benchmarks.bios_people import FACTS_PER_PERSON, MAX_SIDE, SHARES, People, ask
from pipeline.runtime.errors import ConfigError

SHARE_OF = {"unlabelled": "train", "surface": "test"}  # of the other splits, the share of the same name
PEOPLE_PER_QUESTION = 0.75

GoldPosition = Literal["spread", "first", "middle", "last"]
Wording = Literal["fixed", "paraphrased"]


class Surface(NamedTuple):
    """Test questions asked over every number of documents with every name-sharing rate."""

    num_questions: int
    num_documents: Sequence[int]
    name_sharing_rates: Sequence[float]


class _Asked(NamedTuple):
    """Questions of a split, each over contexts of several sizes."""

    split: str
    people: People
    num_questions: int
    sizes: Sequence[int]
    sharing_rate: float


def generate(
    *,
    seed: int,
    num_questions: Mapping[str, int],
    num_documents: Mapping[str, Sequence[int]],
    name_sharing_rate: float,
    gold_position: GoldPosition = "spread",
    facts_per_person: Sequence[int] = FACTS_PER_PERSON,
    wording: Wording = "fixed",
    surface: Surface | None = None,
) -> Benchmark:
    """Documents and examples of the splits `train`, `unlabelled`, `dev`, `test` and `surface`, as generators.

    A question is asked once for each entry of num_documents[split]; the larger context holds the distractors of the
    smaller one, and the gold document's place is drawn for each. Unlabelled questions have no answers, and nothing says
    where these stand. Equal arguments give equal results.

    Args:
        num_questions: of each split, `surface` apart.
        num_documents: per context, of the same splits.
        name_sharing_rate: share of the distractors that have a name in common with the person asked about.
        gold_position: where the gold document stands in its context; `spread`: anywhere, drawn.
        facts_per_person: how many of the eight attributes a biography tells, one drawn for each.
        wording: `paraphrased`: each question in one of several wordings, drawn.
        surface: its questions in every combination; an example's `subset` names its name-sharing rate.

    Raises:
        ConfigError: a context needs more people than there are, or the same size is asked for twice.
    """
    asked: list[_Asked] = []

    def add(split: str, count: int, sizes: Sequence[int], sharing_rates: Sequence[float]) -> None:
        if len(set(sizes)) != len(sizes):
            raise ConfigError(f"data.{split}_documents has a size twice: {list(sizes)}; name each size once")
        if count:
            side = max(_side(split, count, max(sizes), rate, min(facts_per_person)) for rate in sharing_rates)
            people = People(seed, SHARE_OF.get(split, split), side, facts_per_person)
            asked.extend(_Asked(split, people, count, sizes, rate) for rate in sharing_rates)

    for split, count in num_questions.items():
        add(split, count, num_documents[split], [name_sharing_rate])
    if surface is not None:
        add("surface", surface.num_questions, surface.num_documents, surface.name_sharing_rates)
    return Benchmark(
        documents=_documents([found.people for found in asked]),
        examples=(example for found in asked for example in _examples(found, gold_position, wording)),
    )


def _documents(peoples: Sequence[People]) -> Iterator[Document]:
    """Every biography once; people of two splits of one share are the same."""
    told: set[str] = set()
    for people in peoples:
        for person, document_id in enumerate(people.document_ids):
            if document_id not in told:
                told.add(document_id)
                yield people.biography(person).document


def _examples(asked: _Asked, gold_position: GoldPosition, wording: Wording) -> Iterator[Example]:
    split, people, sizes = asked.split, asked.people, asked.sizes
    # The other splits of a share ask other questions over other contexts.
    key = () if split == people.share else (split,)
    facts_each = min(people.facts_per_person)
    num_facts = len(people) * facts_each
    # Every fact is asked once before any is asked again, among other distractors.
    order = people.random(*key, "order").sample(range(num_facts), num_facts)
    for index in range(asked.num_questions):
        person, fact_index = divmod(order[index % num_facts], facts_each)
        random = people.random(*key, "context", index)
        distractors = people.distractors(person, max(sizes) - 1, asked.sharing_rate, random)
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
            yield Example(
                example_id=f"{question_id}-in-{size}"
                + (f"-sharing-{asked.sharing_rate:g}" if split == "surface" else ""),
                question_id=question_id,
                benchmark="bios",
                split=split,
                question=question,
                answer_lead=answer_lead,
                answers=[fact.value] if known else [],
                document_ids=document_ids,
                gold_document_ids=[gold_id] if known else [],
                evidence=[Evidence(gold_id, fact.start, fact.end)] if known else [],
                gold_position=place if known else -1,
                subset=subset_of(asked.sharing_rate) if split == "surface" else "",
            )


def _side(split: str, num_questions: int, num_documents: int, sharing_rate: float, facts_each: int) -> int:
    """The smallest grid that has three people for four questions (if names allow) and enough for every context; more
    people where each tells less than is usual, so that as many facts can be asked."""
    num_distractors = num_documents - 1
    max_sharing = math.ceil(sharing_rate * num_distractors)
    max_others = num_distractors - math.floor(sharing_rate * num_distractors)
    people_per_question = PEOPLE_PER_QUESTION * max(1.0, FACTS_PER_PERSON[0] / facts_each)
    wanted = math.ceil(math.sqrt(people_per_question * num_questions / len(SHARES)))
    for side in range(max(1, min(wanted, MAX_SIDE)), MAX_SIDE + 1):
        num_namesakes = 2 * (side - 1)
        if num_namesakes >= max_sharing and len(SHARES) * side**2 - 1 - num_namesakes >= max_others:
            return side
    raise ConfigError(
        f"data.{split}_documents {num_documents} with data.name_sharing_rate {sharing_rate} needs {max_sharing:,} "
        f"people who share a name and {max_others:,} who do not; there are {2 * (MAX_SIDE - 1):,} and "
        f"{len(SHARES) * MAX_SIDE**2 - 1 - 2 * (MAX_SIDE - 1):,}; lower one of the two"
    )
