"""The ablation grid of conf/ablations.yaml: run what is not run yet, measure all, print the table.

    python -m pipeline.tools.ablations [--list] [--only GROUP_OR_NAME ...] [--compare ROW OTHER]

Each distinct run is one `dvc exp run` in a copy of the project, so that earlier stages come
from DVC's cache and nothing here changes but the three files in reports/. Stopped and called again it goes on; a row
that was changed, in the file or by what it depends on, runs anew. The table holds every row whose runs are all done.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.report import ablation_table
from pipeline.runtime.errors import ArtifactError, ConfigError, PipelineError, did_you_mean
from pipeline.runtime.main import run
from pipeline.tools.ablations import plan, tabulate
from pipeline.tools.ablations import runs as ablation_runs
from pipeline.tools.ablations.grid import SEED, Grid, choose, claimed, load
from pipeline.tools.ablations.plan import Planned, Run

TABLE = Path("reports/ablations.md")


def main() -> None:
    arguments = _arguments(sys.argv[1:])
    if arguments.compare:
        print(_comparison(*arguments.compare))
        return
    grid = load()
    chosen = {row.name for row in choose(grid, arguments.only)}
    if arguments.list:
        _list([planned for planned in plan.plan(grid) if planned.row.name in chosen])
        return
    # Where Ctrl-C was ignored when we started (a shell's background job), DVC and the stages would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else a terminal that is closed leaves the run at work
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with ablation_runs.alone() as held:
        workspace = ablation_runs.snapshot()
        planned = plan.plan(grid, workspace)
        failures = _execute([one for one in planned if one.row.name in chosen], workspace, held)
        _report(planned, grid)
    if failures:
        failed = "; ".join(str(failure.run) for failure in failures)
        raise PipelineError(
            f"{len(failures)} of the runs failed: {failed}; mend what their last lines say, run it again"
        )


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.tools.ablations", description="Run the ablation grid.")
    parser.add_argument("--only", nargs="+", default=[], metavar="GROUP_OR_NAME", help="only these groups and rows")
    parser.add_argument("--list", action="store_true", help="say what is done and what would run, and do nothing")
    parser.add_argument(
        "--compare", nargs=2, metavar=("ROW", "OTHER"), help="two rows of the latest table, and do nothing"
    )
    try:
        return parser.parse_args(arguments)
    except SystemExit as end:
        if end.code:
            raise ConfigError("ablations takes --only GROUP_OR_NAME ..., --list and --compare ROW OTHER") from None
        raise


def _list(planned: Sequence[Planned]) -> None:
    """Every row with what is done of it and the mean time of its runs, then the time of the whole and what is left."""
    runs = plan.distinct(planned)
    took = {one.digest: ablation_runs.seconds(one) for one in runs}
    width = max(len(one.row.name) for one in planned)
    for one in planned:
        known = [seconds for found in one.run_of.values() if (seconds := took[found.digest]) is not None]
        state = "done" if len(known) == len(one.run_of) else f"{len(known)} of {len(one.run_of)} seeds done"
        if known:
            state += f", {sum(known) / len(known):.0f} s each"
        changed = " ".join(f"{key}={value}" for key, value in one.overrides.items())
        print(f"{one.row.name.ljust(width)}  {state.ljust(30)}  {f'{one.row.method} {changed}'.rstrip()}")
    waiting = [found for found in runs if took[found.digest] is None]
    finished = [seconds for seconds in took.values() if seconds is not None]
    spent = f" in {_duration(sum(finished))}" if finished else ""
    left = _time_left(waiting, took, planned)
    print(f"{len(runs):,} distinct runs: {len(finished):,} done{spent}, {len(waiting):,} to do{left}")


def _time_left(waiting: Sequence[Run], took: dict[str, float | None], planned: Sequence[Planned]) -> str:
    """By the mean of the finished runs of the same settings, else of the same method, else of all."""
    if not waiting:
        return ""
    finished = [(one, seconds) for one in plan.distinct(planned) if (seconds := took[one.digest])]
    if not finished:
        return "; how long is known when one is done"
    total = 0.0
    for one in waiting:
        other_seeds = [seconds for other, seconds in finished if _but_seed(other) == _but_seed(one)]
        same_method = [seconds for other, seconds in finished if other.method == one.method]
        known = other_seeds or same_method or [seconds for _, seconds in finished]
        total += sum(known) / len(known)
    return f", about {_duration(total)}"


def _but_seed(one: Run) -> tuple[str, dict[str, Any]]:
    return one.method, {key: value for key, value in one.overrides.items() if key != SEED}


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _execute(planned: Sequence[Planned], workspace: Path, held: int) -> list[ablation_runs.Failure]:
    """Run what is not done, one after the other; those that failed."""
    runs = plan.distinct(planned)
    took = {one.digest: ablation_runs.seconds(one) for one in runs}
    waiting = [one for one in runs if took[one.digest] is None]
    print(
        f"ablations: {len(runs) - len(waiting):,} of {len(runs):,} runs are done; stages write to {ablation_runs.LOG}",
        flush=True,
    )
    failures = []
    for place, one in enumerate(waiting):
        left = _time_left(waiting[place:], took, planned)
        print(f"ablations: {place + 1:,} of {len(waiting):,}: {one}{left}", flush=True)
        if failure := ablation_runs.execute(one, workspace, held):
            failures.append(failure)
            print(f"ablations: failed: {one}; its last lines ({ablation_runs.LOG} has them all):", file=sys.stderr)
            print("\n".join(f"    {line}" for line in failure.lines), file=sys.stderr, flush=True)
        else:
            took[one.digest] = ablation_runs.seconds(one)
    return failures


def _report(planned: Sequence[Planned], grid: Grid) -> None:
    """Measure the rows whose runs are all done; write the table and print it."""
    took = {one.digest: ablation_runs.seconds(one) for one in plan.distinct(planned)}
    rows = []
    for one in planned:
        if lacking := [seed for seed, found in one.run_of.items() if took[found.digest] is None]:
            print(f"ablations: row {one.row.name} is left out, seeds {', '.join(map(str, lacking))} are not done")
            continue
        rows.append(_answered(one))
    if not rows:
        print(f"ablations: no row is done, {TABLE} stays as it is")
        return
    seconds = sum(took[digest] or 0.0 for digest in {digest for row in rows for digest in row.identity[1:]})
    table = tabulate.tabulate(rows, reference=grid.reference, claimed=claimed(grid), seconds=seconds)
    tables.write(schema.ABLATIONS, _lines(rows))
    files.write_json(ablation_table.RECORD, table.model_dump(mode="json"))
    files.write_text(TABLE, ablation_table.markdown(table))
    counted = f"{len(rows):,} of {len(planned):,} rows"
    print(
        f"\n{ablation_table.markdown(table)}\nablations: {counted}; {TABLE}, {ablation_table.RECORD}, "
        f"{schema.ABLATIONS}"
    )


def _comparison(name: str, other: str) -> str:
    """Of two rows by the kept answers, in words.

    Raises:
        ConfigError: a row is not among them.
        ArtifactError: there are none, or the rows cannot be compared.
    """
    if not schema.ABLATIONS.path.is_file():
        raise ArtifactError(f"{schema.ABLATIONS}: no such file; run `make ablations` first, the answers are not in git")
    answers: dict[str, dict[int, list[tables.Row]]] = {}
    for answer in tables.scan(schema.ABLATIONS):
        answers.setdefault(answer["row"], {}).setdefault(answer["seed"], []).append(answer)
    for wanted in (name, other):
        if wanted not in answers:
            hint = did_you_mean(wanted, answers)
            raise ConfigError(f"{schema.ABLATIONS} has no row {wanted!r}{hint}; there are {', '.join(answers)}")
    if name == other:
        raise ConfigError(f"--compare takes two rows, got {name} twice")
    rows = [
        tabulate.Answered(
            name=row,
            label=row,
            group="",
            method=next(iter(answers[row].values()))[0]["method"],
            input=next(iter(answers[row].values()))[0]["input"],
            overrides={},
            answers=answers[row],
            identity=(row,),
        )
        for row in (other, name)
    ]
    return ablation_table.comparison(tabulate.tabulate(rows, reference=other, claimed=[], seconds=0.0).rows[1], other)


def _answered(one: Planned) -> tabulate.Answered:
    """A row with the answers of its runs; one seed where all seeds are the same run, as without training."""
    row = one.row
    run_of: dict[int, Run] = {}
    for seed, found in one.run_of.items():
        if found.digest not in {known.digest for known in run_of.values()}:
            run_of[seed] = found
    answers = {seed: ablation_runs.answers(found, row.input) for seed, found in run_of.items()}
    return tabulate.Answered(
        name=row.name,
        label=row.label,
        group=row.group,
        method=row.method,
        input=row.input,
        overrides=one.overrides,
        answers=answers,
        identity=(row.input, *(found.digest for found in run_of.values())),
        reference=row.reference,
    )


def _lines(rows: Sequence[tabulate.Answered]) -> Iterator[tables.Row]:
    for row in rows:
        for seed, answers in row.answers.items():
            for answer in answers:
                yield {**answer, "row": row.name, "seed": seed}


if __name__ == "__main__":
    run(main)
