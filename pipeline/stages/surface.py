"""Stage surface@<method>: the method's answers as the context gets harder, and their score in every condition.

Where the benchmark has no questions of split surface (bios alone makes some), its two files are empty.
"""

import sys

from pipeline.common import files, tables
from pipeline.evaluation import predict, schema, score
from pipeline.model import distributed
from pipeline.runtime import config, methods
from pipeline.runtime.main import run

SPLIT = "surface"


def main() -> None:
    method = methods.only(sys.argv[1:], "surface")
    settings = config.load("surface")
    distributed.launch("pipeline.stages.surface", [method])
    rows = predict.predictions(method, settings.model, settings.eval, SPLIT, {}, f"surface@{method}")
    if rows is None:
        return
    cells = score.surface(rows, resamples=settings.eval.bootstrap_resamples)
    tables.write(schema.predictions_of(method, "surface"), rows, sources=predict.sources({}))
    files.write_json(schema.SURFACE / f"{method}.json", {"rows": cells})
    if cells:
        easy, hard = (f"{cell['score']['mean']:.1%}" for cell in (cells[0], cells[-1]))
        found = f"{len(rows):,} answers in {len(cells)} cells; score {easy} in the easiest, {hard} in the hardest"
    else:
        found = "no questions of split surface"
    print(f"surface@{method}: {found}")


if __name__ == "__main__":
    run(main)
