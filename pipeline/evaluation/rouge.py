"""ROUGE of a summary, by Google's rouge-score 0.1.2: F-measures after Porter stemming, the best over the references.

SQuALITY's authors score in this way (nyu-mll/SQuALITY @dc08d4f5, utils/metrics/multi_rouge/multi_rouge.py, called with
use_stemmer=True by run_summarization.py): every kind of ROUGE takes its own best reference. Their split into sentences
matters to ROUGE-Lsum alone, which we leave out; they print the median of a bootstrap, we take the mean. Words are runs
of a-z and 0-9 in lower case: a text in another script has none and scores 0.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from pipeline.runtime.errors import ConfigError

_KINDS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Compute `rouge_1`, `rouge_2` and `rouge_l`, from 0 to 1; an empty prediction scores 0.

    Raises:
        ValueError: there are no references.
    """
    scores = [_score(prediction, reference) for reference in references]
    return {name: max(score[place] for score in scores) for place, name in enumerate(_KINDS)}


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Compute ROUGE-L alone, from 0 to 1."""
    return rouge(prediction, references)["rouge_l"]


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer  # takes seconds to import, and only summaries need it
    except ImportError:
        raise ConfigError(
            'summaries need rouge-score, which is not installed; `pip install "focused-learning[squality]"`'
        ) from None
    return RougeScorer(list(_KINDS.values()), use_stemmer=True)


@lru_cache(maxsize=1 << 16)
def _score(prediction: str, reference: str) -> tuple[float, ...]:
    # Cached, because a pair takes 50 ms and is scored once for its row and once for the whole benchmark.
    found = _scorer().score(reference, prediction)
    return tuple(float(found[kind].fmeasure) for kind in _KINDS.values())
