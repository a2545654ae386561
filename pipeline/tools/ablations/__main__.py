"""The grids of conf/ablations.yaml and, with --map, of conf/map.yaml: run what is not run yet, measure, print.

    python -m pipeline.tools.ablations [--map] [--list] [--only GROUP_OR_NAME ...] [--compare ROW OTHER]

Each distinct run is one `dvc exp run` in a copy of the project, so that earlier stages come from DVC's cache and only
a few files change here: reports/ablations.{json,md,parquet}, or reports/map.{json,parquet}. A grid that was stopped
goes on when called again; a row that changed, in the file or in the code and settings it depends on, runs anew. The
table holds every row whose runs are all done. The record in git is kept until then: it names the commit whose code made
its figures.
"""

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.report import ablation_table, focus_map
from pipeline.report.ablation_table import AblationTable
from pipeline.report.focus_map import FocusMap
from pipeline.report.text import points
from pipeline.runtime.errors import ArtifactError, ConfigError, PipelineError, did_you_mean
from pipeline.runtime.main import commit, run
from pipeline.tools import arguments
from pipeline.tools.ablations import cells, grid, runs, tabulate

TABLE = Path("reports/ablations.md")


def main() -> None:
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.ablations", description="Run the ablation grid.")
    parser.add_argument("--only", nargs="+", default=[], metavar="GROUP_OR_NAME", help="only these groups and rows")
    parser.add_argument("--list", action="store_true", help="print what is done and what would run, and do nothing")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--map", action="store_true", help="the grid of conf/map.yaml: where focused learning helps")
    group.add_argument("--compare", nargs=2, metavar=("ROW", "OTHER"), help="compare two rows of the latest table")
    asked = parser.parse_args(sys.argv[1:])
    if asked.compare:
        print(_comparison(*asked.compare))
        return
    whole = grid.load(file=grid.MAP if asked.map else grid.FILE)
    chosen = {row.name for row in grid.choose(whole, asked.only)}
    if asked.list:
        planned = [one for one in grid.plan(whole) if one.row.name in chosen]
        print("\n".join(_lines(planned, whole.stage)))
        return
    # Where Ctrl-C was ignored when we started (a shell's background job), DVC and the stages would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # otherwise a closed terminal leaves the run at work
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with runs.alone() as lock:
        code, workspace = commit(), runs.snapshot()
        planned = grid.plan(whole, workspace)
        took = runs.seconds_of(grid.distinct(planned))
        failures = _execute([one for one in planned if one.row.name in chosen], took, workspace, lock)
        _report(planned, took, whole, code)
    if failures:
        failed = "; ".join(str(failure.run) for failure in failures)
        raise PipelineError(
            f"{len(failures)} of the runs failed: {failed}; mend what their last lines say, run it again"
        )


def _lines(planned: Sequence[grid.PlannedRow], stage: str) -> Iterator[str]:
    """One line for each row: what is done, the mean time of its runs, its recorded figure. Then the totals."""
    figure_of, recorded = _recorded_map() if stage == "surface" else _recorded_table()
    needed = grid.distinct(planned)
    took = runs.seconds_of(needed)
    width = max(len(one.row.name) for one in planned)
    for one in planned:
        known = [seconds for found in one.run_of.values() if (seconds := took[found.digest]) is not None]
        state = "done" if len(known) == len(one.run_of) else f"{len(known)} of {len(one.run_of)} seeds done"
        if known:
            state += f", {sum(known) / len(known):.0f} s each"
        changed = " ".join(f"{key}={value}" for key, value in one.overrides.items())
        figure = figure_of.get(one.row.name, "not recorded").ljust(19)
        yield f"{one.row.name.ljust(width)}  {state.ljust(30)}  {figure}  {one.row.method} {changed}".rstrip()
    finished = [seconds for seconds in took.values() if seconds is not None]
    spent = f" in {_duration(sum(finished))}" if finished else ""
    waiting = [found for found in needed if took[found.digest] is None]
    left = _time_left(waiting, took, needed)
    yield f"{len(needed):,} distinct runs: {len(finished):,} done{spent}, {len(waiting):,} to do{left}"
    if figure_of:
        yield f"recorded: {recorded}"


def _recorded_table() -> tuple[dict[str, str], str]:
    """Give the recorded figure of each row, and what these figures are."""
    record = ablation_table.read() if ablation_table.RECORD.is_file() else AblationTable(rows=[])
    figure_of = {row.name: f"recorded {100 * row.pooled.mean:.1f} ({len(row.seeds)})" for row in record.rows}
    return figure_of, f"{record.measure} in percent, of {ablation_table.RECORD}{_made_by(record.code)}"


def _recorded_map() -> tuple[dict[str, str], str]:
    """Give the best recorded difference of each row, and what these figures are."""
    record = focus_map.read() if focus_map.RECORD.is_file() else FocusMap(cells=[])
    by_row = sorted(record.cells, key=lambda cell: cell.difference)
    figure_of = {cell.row: f"recorded {points(cell.difference)} ({cell.num_seeds})" for cell in by_row}
    return figure_of, f"the best cell of each row, in points, of {focus_map.RECORD}{_made_by(record.code)}"


def _made_by(code: str) -> str:
    return f"; the code that made these figures: {code}" if code else ""


def _time_left(
    waiting: Sequence[grid.AblationRun], took: Mapping[str, float | None], all_runs: Sequence[grid.AblationRun]
) -> str:
    """Estimate by the mean of the finished runs of the same settings, else of the same method, else of all."""
    if not waiting:
        return ""
    finished = [(one, seconds) for one in all_runs if (seconds := took[one.digest])]
    if not finished:
        return "; how long is known when one is done"
    total = 0.0
    for one in waiting:
        other_seeds = [seconds for other, seconds in finished if _but_seed(other) == _but_seed(one)]
        same_method = [seconds for other, seconds in finished if other.method == one.method]
        known = other_seeds or same_method or [seconds for _, seconds in finished]
        total += sum(known) / len(known)
    return f", about {_duration(total)}"


def _but_seed(one: grid.AblationRun) -> tuple[str, dict[str, object]]:
    return one.method, {key: value for key, value in one.overrides.items() if key != grid.SEED}


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _execute(
    planned: Sequence[grid.PlannedRow], took: dict[str, float | None], workspace: Path, lock: int
) -> list[runs.FailedRun]:
    """Run what is not done, one after the other; add the times to `took` and return the runs that failed."""
    needed = grid.distinct(planned)
    waiting = [one for one in needed if took[one.digest] is None]
    done = f"{len(needed) - len(waiting):,} of {len(needed):,} runs are done"
    print(f"ablations: {done}; stages write to {runs.LOG}", flush=True)
    failures = []
    for place, one in enumerate(waiting):
        left = _time_left(waiting[place:], took, needed)
        print(f"ablations: {place + 1:,} of {len(waiting):,}: {one}{left}", flush=True)
        if failure := runs.execute(one, workspace, lock):
            failures.append(failure)
            print(f"ablations: failed: {one}; its last lines ({runs.LOG} has them all):", file=sys.stderr)
            print("\n".join(f"    {line}" for line in failure.lines), file=sys.stderr, flush=True)
        else:
            took |= runs.seconds_of([one])
    return failures


def _report(
    planned: Sequence[grid.PlannedRow], took: Mapping[str, float | None], whole: grid.AblationGrid, code: str
) -> None:
    """Measure the rows whose runs are all done; write the record and print it."""
    rows = []
    for one in planned:
        if lacking := [seed for seed, found in one.run_of.items() if took[found.digest] is None]:
            print(f"ablations: row {one.row.name} is left out, seeds {', '.join(map(str, lacking))} are not done")
            continue
        rows.append(_answers(one))
    if not rows:
        print("ablations: no row is done, the record stays as it is")
        return
    seconds = sum(took[digest] or 0.0 for digest in {digest for row in rows for digest in row.identity[1:]})
    record: AblationTable | FocusMap
    if whole.stage == "surface":
        record = cells.measure(rows, seconds=seconds, code=code)
        path, kept, shown = focus_map.RECORD, schema.MAP, focus_map.markdown(record)
        written = f"{path}, {kept}"
    else:
        record = tabulate.tabulate(
            rows, reference=whole.reference, claimed=grid.claimed(whole), seconds=seconds, code=code
        )
        path, kept, shown = ablation_table.RECORD, schema.ABLATIONS, ablation_table.markdown(record)
        written = f"{TABLE}, {path}, {kept}"
        files.write_text(TABLE, shown)
    answers = pl.concat(row.answers.with_columns(row=pl.lit(row.name)) for row in rows)
    tables.write(kept, answers.iter_rows(named=True))
    files.write_json(path, record.model_dump(mode="json"))
    print(f"\n{shown}\nablations: {len(rows):,} of {len(planned):,} rows; {written}")


def _comparison(name: str, other: str) -> str:
    """Compare two rows by the kept answers, in words.

    Raises:
        ConfigError: a row is not among them.
        ArtifactError: there are no kept answers, or the rows cannot be compared.
    """
    if not schema.ABLATIONS.path.is_file():
        raise ArtifactError(f"{schema.ABLATIONS}: no such file; run `make ablations` first, the answers are not in git")
    answers = tables.frame(schema.ABLATIONS)
    names = answers["row"].unique(maintain_order=True).to_list()
    for wanted in (name, other):
        if wanted not in names:
            hint = did_you_mean(wanted, names)
            raise ConfigError(f"{schema.ABLATIONS} has no row {wanted!r}{hint}; there are {', '.join(names)}")
    if name == other:
        raise ConfigError(f"--compare takes two rows, got {name} twice")
    rows = []
    for row in (other, name):
        mine = answers.filter(pl.col("row") == row)
        method, given = mine["method"][0], mine["input"][0]
        rows.append(tabulate.AblationAnswers(row, row, "", method, given, {}, answers=mine, identity=(row,)))
    return ablation_table.comparison(tabulate.tabulate(rows, reference=other, claimed=[], seconds=0.0).rows[1], other)


def _answers(one: grid.PlannedRow) -> tabulate.AblationAnswers:
    """Read the answers of a row's runs; of one seed where all seeds are the same run, as without training."""
    seed_of: dict[str, int] = {}
    for seed, found in one.run_of.items():
        seed_of.setdefault(found.digest, seed)
    row = one.row
    answers = [
        runs.answers(one.run_of[seed], row.input).with_columns(seed=pl.lit(seed, pl.Int64)) for seed in seed_of.values()
    ]
    return tabulate.AblationAnswers(
        **row.model_dump(exclude={"overrides", "scale", "seeds"}),
        overrides=one.overrides,
        answers=pl.concat(answers),
        identity=(row.input, *seed_of),
    )


if __name__ == "__main__":
    run(main)
