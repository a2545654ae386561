"""Grids of trainings, such as conf/ablations.yaml: run what is not run yet, measure, print.

    python -m pipeline.tools.ablations [--grid NAME] [--list] [--keep] [--jobs N] [--only GROUP_OR_NAME ...]
    python -m pipeline.tools.ablations [--grid NAME] --compare ROW OTHER

Each distinct run is one `dvc exp run` in a copy of the project, so that earlier stages come from DVC's cache and only
a few files change here: reports/runs, and the record of the grid, reports/NAME.{json,md,parquet}. A grid that was
stopped goes on when called again; a row that changed, in the file or in the code and settings it depends on, runs anew.
With --keep, answers that other code made count too, where the settings are the same. The table holds the seeds that are
done, and names the commits and machines that made them.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.report import ablation_table, focus_map
from pipeline.report.ablation_table import AblationTable
from pipeline.report.focus_map import FocusMap
from pipeline.report.text import points
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError, PipelineError, did_you_mean
from pipeline.runtime.main import commit, run
from pipeline.tools import arguments
from pipeline.tools.ablations import cells, grid, runs, tabulate

REPORTS = Path("reports")


def main() -> None:
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.ablations", description="Run the ablation grid.")
    parser.add_argument("--grid", default="ablations", metavar="NAME", help="the grid of conf/NAME.yaml (ablations)")
    parser.add_argument("--only", nargs="+", default=[], metavar="GROUP_OR_NAME", help="only these groups and rows")
    parser.add_argument("--list", action="store_true", help="print what is done and what would run, and do nothing")
    parser.add_argument("--keep", action="store_true", help="count the answers that other code made, too")
    parser.add_argument("--jobs", type=arguments.positive, default=1, metavar="N", help="so many runs at once")
    parser.add_argument("--compare", nargs=2, metavar=("ROW", "OTHER"), help="compare two rows of the latest table")
    asked = parser.parse_args(sys.argv[1:])
    whole = grid.load(file=config.CONF / f"{asked.grid}.yaml")
    if asked.compare:
        print(_comparison(_answers_of(whole), *asked.compare))
        return
    chosen = {row.name for row in grid.choose(whole, asked.only)}
    if asked.list:
        planned = [one for one in grid.plan(whole) if one.row.name in chosen]
        print("\n".join(_lines(planned, whole, asked.keep)))
        return
    # Where Ctrl-C was ignored when we started (a shell's background job), DVC and the stages would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # otherwise a closed terminal leaves the run at work
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with runs.alone() as lock:
        code, workspaces = commit(), [runs.snapshot(number + 1) for number in range(asked.jobs)]
        planned = grid.plan(whole, workspaces[0].folder)
        kept = _kept(planned, asked.keep)
        failures = _execute([one for one in planned if one.row.name in chosen], kept, workspaces, lock, code)
        _report(planned, kept, whole)
    if failures:
        failed = "; ".join(str(failure.run) for failure in failures)
        raise PipelineError(
            f"{len(failures)} of the runs failed: {failed}; mend what their last lines say, run it again"
        )


def _kept(planned: Sequence[grid.PlannedRow], keep: bool) -> dict[str, runs.Kept | None]:
    """Digest -> what is kept of the run, as far as it counts: with `keep`, that of other code does, too."""
    found = runs.kept(grid.distinct(planned))
    return {digest: one if one and (one.is_current or keep) else None for digest, one in found.items()}


def _lines(planned: Sequence[grid.PlannedRow], whole: grid.AblationGrid, keep: bool) -> Iterator[str]:
    """One line for each row: what is done, the mean time of its runs, its recorded figure. Then the totals."""
    figure_of, recorded = _recorded(whole)
    needed = grid.distinct(planned)
    kept, there = _kept(planned, keep), runs.kept(needed)
    took = _seconds(kept)
    width = max(len(one.row.name) for one in planned)
    for one in planned:
        known = [seconds for found in one.run_of.values() if (seconds := took[found.digest]) is not None]
        state = "done" if len(known) == len(one.run_of) else f"{len(known)} of {len(one.run_of)} seeds done"
        if known:
            state += f", {sum(known) / len(known):.0f} s each"
        if other := sum(bool(there[found.digest]) for found in one.run_of.values()) - len(known):
            state += f", {other} by other code"
        figure = figure_of.get(one.row.name, "not recorded").ljust(19)
        changed = " ".join(f"{key}={value}" for key, value in one.overrides.items())
        yield f"{one.row.name.ljust(width)}  {state.ljust(30)}  {figure}  {one.row.method} {changed}".rstrip()
    finished = [seconds for seconds in took.values() if seconds is not None]
    spent = f" in {_duration(sum(finished))}" if finished else ""
    waiting = [found for found in needed if took[found.digest] is None]
    left = _time_left(waiting, took, needed)
    yield f"{len(needed):,} distinct runs: {len(finished):,} done{spent}, {len(waiting):,} to do{left}"
    if other := sum(map(bool, there.values())) - len(finished):
        yield f"{other:,} of these have answers that other code made; KEEP=1 (--keep) counts them"
    if figure_of:
        yield f"recorded: {recorded}"


def _seconds(kept: Mapping[str, runs.Kept | None]) -> dict[str, float | None]:
    return {digest: one and one.seconds for digest, one in kept.items()}


def _record_of(whole: grid.AblationGrid) -> Path:
    return REPORTS / f"{whole.name}.json"


def _answers_of(whole: grid.AblationGrid) -> tables.Table:
    return schema.ABLATIONS.at(REPORTS / f"{whole.name}.parquet")


def _recorded(whole: grid.AblationGrid) -> tuple[dict[str, str], str]:
    """Give the recorded figure of each row, of a map that of its best cell, and what these figures are."""
    record: AblationTable | FocusMap
    path = _record_of(whole)
    if whole.stage == "surface":
        record = focus_map.read(path) if path.is_file() else FocusMap(cells=[])
        by_row = sorted(record.cells, key=lambda cell: cell.difference)
        found = {cell.row: f"recorded {points(cell.difference)} ({cell.num_seeds})" for cell in by_row}
        what = f"the best cell of each row, in points, of {path}"
    else:
        record = ablation_table.read(path) if path.is_file() else AblationTable(rows=[])
        found = {row.name: f"recorded {100 * row.pooled.mean:.1f} ({len(row.seeds)})" for row in record.rows}
        what = f"{record.measure} in percent, of {path}"
    return found, f"{what}; the code that made these figures: {record.code}" if record.code else what


def _time_left(
    waiting: Sequence[grid.AblationRun],
    took: Mapping[str, float | None],
    all_runs: Sequence[grid.AblationRun],
    jobs: int = 1,
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
    return f", about {_duration(total / jobs)}"


def _but_seed(one: grid.AblationRun) -> tuple[str, dict[str, object]]:
    return one.method, {key: value for key, value in one.overrides.items() if key != grid.SEED}


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _execute(
    planned: Sequence[grid.PlannedRow],
    kept: dict[str, runs.Kept | None],
    workspaces: Sequence[runs.Workspace],
    lock: int,
    code: str,
) -> list[runs.FailedRun]:
    """Run what is not done, one in each workspace at a time; add to `kept` and return the runs that failed."""
    needed = grid.distinct(planned)
    waiting = [one for one in needed if kept[one.digest] is None]
    num_waiting, free, working = len(waiting), list(workspaces), list[runs.Job]()
    threads = max(1, (os.cpu_count() or 1) // len(workspaces)) if len(workspaces) > 1 else None
    logs = ", ".join(str(workspace.log) for workspace in workspaces)
    print(
        f"ablations: {len(needed) - len(waiting):,} of {len(needed):,} runs are done; stages write to {logs}",
        flush=True,
    )
    failures = []
    try:
        while waiting or working:
            while waiting and free:
                one = waiting.pop(0)
                left = _time_left(
                    [*(job.run for job in working), one, *waiting], _seconds(kept), needed, len(workspaces)
                )
                print(f"ablations: {num_waiting - len(waiting):,} of {num_waiting:,}: {one}{left}", flush=True)
                working.append(runs.start(one, free.pop(), lock, threads))
                runs.note(lock, [job.process.pid for job in working])
            for job in [job for job in working if job.process.poll() is not None]:
                working.remove(job)
                free.append(job.workspace)
                if failure := runs.finish(job, code):
                    failures.append(failure)
                    print(f"ablations: failed: {job.run}; its last lines ({job.workspace.log}):", file=sys.stderr)
                    print("\n".join(f"    {line}" for line in failure.lines), file=sys.stderr, flush=True)
                else:
                    kept |= runs.kept([job.run])
            time.sleep(0.1)
    except BaseException:
        runs.stop(working)
        raise
    return failures


def _report(planned: Sequence[grid.PlannedRow], kept: Mapping[str, runs.Kept | None], whole: grid.AblationGrid) -> None:
    """Measure the rows over the seeds that are done; write the record and print it."""
    rows = []
    for one in planned:
        done = {seed: found for seed, found in one.run_of.items() if kept[found.digest]}
        if lacking := [str(seed) for seed in one.run_of if seed not in done]:
            what = "is measured without" if done else "is left out:"
            print(f"ablations: row {one.row.name} {what} seeds {', '.join(lacking)}, which are not done")
        if done:
            rows.append(_answers(one._replace(run_of=done)))
    if not rows:
        print("ablations: no row is done, the record stays as it is")
        return
    used = [
        found for digest in {digest: None for row in rows for digest in row.identity[1:]} if (found := kept[digest])
    ]
    seconds, code = sum(one.seconds for one in used), " | ".join(dict.fromkeys(one.made_by for one in used))
    record: AblationTable | FocusMap
    if whole.stage == "surface":
        record = cells.measure(rows, seconds=seconds, code=code)
        shown = focus_map.markdown(record)
    else:
        record = tabulate.tabulate(
            rows,
            reference=whole.reference,
            claimed=whole.claims,
            seconds=seconds,
            code=code,
            every_length=whole.contexts == "each",
        )
        shown = ablation_table.markdown(record)
    path, answers = _record_of(whole), _answers_of(whole)
    files.write_text(path.with_suffix(".md"), shown)
    every = pl.concat(row.answers.with_columns(row=pl.lit(row.name)) for row in rows)
    tables.write(answers, every.iter_rows(named=True))
    files.write_json(path, record.model_dump(mode="json"))
    written = f"{path}, {path.with_suffix('.md')}, {answers}"
    print(f"\n{shown}\nablations: {len(rows):,} of {len(planned):,} rows; {written}; next: `make repro` for the page")


def _comparison(kept: tables.Table, name: str, other: str) -> str:
    """Compare two rows by the kept answers, in words.

    Raises:
        ConfigError: a row is not among them.
        ArtifactError: there are no kept answers, or the rows cannot be compared.
    """
    if not kept.path.is_file():
        raise ArtifactError(f"{kept}: no such file; run the grid first, this file is not in git")
    answers = tables.frame(kept)
    names = answers["row"].unique(maintain_order=True).to_list()
    for wanted in (name, other):
        if wanted not in names:
            hint = did_you_mean(wanted, names)
            raise ConfigError(f"{kept} has no row {wanted!r}{hint}; there are {', '.join(names)}")
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
