"""python -m e2vit list | status | run NAME… | export NAME FILE"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from e2vit.data import DataError
from e2vit.experiments import EXPERIMENTS, Experiment, RecordError, find, records, run, status
from e2vit.export import ExportError, export_run
from e2vit.training import DamagedState, Diverged, OutOfTime

# Errors that are told in one sentence; the next run may succeed.
FAILURES = (
    DataError,
    RecordError,
    ExportError,
    DamagedState,
    Diverged,
    KeyError,
    ValueError,
    OSError,
    torch.cuda.OutOfMemoryError,
)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code = {"list": _list, "status": _status, "run": _run, "export": _export}[options.command](options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has seen enough, as in ``list | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say("stopped; the same command continues")
        return 130
    except FAILURES as reason:
        _say(f"e2vit: {reason.args[0] if isinstance(reason, KeyError) else reason}")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2vit", description="The experiments of the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    of_list = commands.add_parser("list", help="every experiment in a line, with its accuracy and cost")
    of_status = commands.add_parser("status", help="which records are there, and what the missing ones cost")
    of_run = commands.add_parser("run", help="train what has no record yet")
    of_run.add_argument("names", nargs="*", metavar="NAME", help="experiments, see list")
    of_run.add_argument("--missing", action="store_true", help="only those without a record; of all when none is named")
    of_run.add_argument("--seeds", type=int, help="how many seeds; the wanted number when left out")
    of_run.add_argument("--seed", type=int, help="this seed alone")
    of_run.add_argument("--budget-minutes", type=float, default=math.inf, help="stop then; the same command continues")
    of_run.add_argument("--quiet", action="store_true", help="no progress bars")
    of_export = commands.add_parser("export", help="a trained model as an ONNX file")
    of_export.add_argument("name", metavar="NAME", help="an experiment with a record")
    of_export.add_argument("file", metavar="FILE", type=Path)
    of_export.add_argument("--seed", type=int, default=0)
    for command in (of_list, of_status):
        command.add_argument("--json", action="store_true", help="one JSON object for each experiment")
    for command in (of_list, of_status, of_run, of_export):
        command.add_argument("--results", type=Path, help="folder of the records; data/results when left out")
    return parser


def _list(options: argparse.Namespace) -> int:
    for row in _rows(options):
        line = f"{row['experiment']:{WIDTH}}  {row['about']}; expected {_percent(row['expected'])}"
        minutes = f", {row['minutes']:.3g} min a seed on {' / '.join(row['devices'])}" if row["minutes"] else ""
        print(line + minutes)
    return 0


def _status(options: argparse.Namespace) -> int:
    rows = _rows(options)
    if rows:
        print(f"{'experiment':{WIDTH}}  present/wanted  stale  missing         accuracy  min a seed  ran on")
    for row in rows:
        stale, missing = (",".join(map(str, row[key])) or "–" for key in ("stale", "missing"))
        minutes = f"{row['minutes']:.3g}" if row["minutes"] else "–"
        print(
            f"{row['experiment']:{WIDTH}}  {row['present']:>7}/{row['wanted']:<6}  {stale:<5}  {missing:<14}  "
            f"{_percent(row['accuracy']):>8}  {minutes:>10}  {' / '.join(row['devices']) or '–'}"
        )
    if rows:
        wanted = sum(row["wanted"] for row in rows)
        missing, stale = (sum(len(row[key]) for row in rows) for key in ("missing", "stale"))
        known = sum(len(row["missing"]) * (row["minutes"] or 0) for row in rows) / 60
        unknown = sum(len(row["missing"]) for row in rows if row["minutes"] is None)
        print(
            f"{wanted - missing} of {wanted} wanted runs are there, {stale} are stale; "
            f"to do: {known:.1f} hours by the records, and {unknown} runs of unknown cost"
        )
    return 0


def _rows(options: argparse.Namespace) -> list[dict]:
    """The rows of ``status`` with the expected accuracy; none when they were printed as JSON."""
    rows = [row | {"expected": row["accuracy"] or find(row["experiment"]).expected} for row in status(options.results)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return []
    return rows


def _run(options: argparse.Namespace) -> int:
    """The first seed of every experiment, then the second, and so on; a run that fails doesn't stop the others."""
    names = options.names or (list(EXPERIMENTS) if options.missing else [])
    if not names:
        raise ValueError("name the experiments to run, or say --missing; python -m e2vit list shows them")
    if not options.budget_minutes >= 0:
        raise ValueError(f"--budget-minutes is a number from 0 on, got {options.budget_minutes:g}")
    deadline, code = time.monotonic() + 60 * options.budget_minutes, 0
    for experiment, seed in tasks([find(name) for name in names], options.seeds, options.seed):
        if options.missing and seed in records.seeds_present(experiment, options.results):
            continue
        try:
            others = [r for r in records.find(name=experiment.name, results=options.results) if r["seed"] != seed]
            progress, results = not options.quiet, options.results
            record = run(experiment, "train", seed, results=results, deadline=deadline, progress=progress).record
            _report(experiment, record, others, options.results)
        except OutOfTime as reason:
            _say(f"{experiment.name}, seed {seed}: {reason}; the same command continues")
            break
        except FAILURES as reason:
            code = 1
            _say(f"e2vit: {experiment.name}, seed {seed}: {reason}")
    return code


def tasks(experiments: Sequence[Experiment], seeds: int | None, seed: int | None) -> list[tuple[Experiment, int]]:
    """seeds: how many, the wanted number when left out; seed: this one alone. Error: ValueError for a wrong number."""
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds counts seeds and starts at 1, got {seeds}")
    if seed is not None and seed < 0:
        raise ValueError(f"--seed is a whole number from 0 on, got {seed}")
    rounds = range(max(seeds or experiment.seeds for experiment in experiments)) if seed is None else [seed]
    return [
        (experiment, number)
        for number in rounds
        for experiment in experiments
        if seed is not None or number < (seeds or experiment.seeds)
    ]


def _report(experiment: Experiment, record: dict, others: list[dict], results: Path | None) -> None:
    """One line: what was reached and expected, where the record is, and how to look at it."""
    if not PartialState().is_main_process:
        return
    name, seed = experiment.name, record["seed"]
    expected = records.summarize(others).mean if others else experiment.expected
    path = (results or records.results_folder()) / name / f"seed{seed}.json"
    where = f', results="{results}"' if results else ""
    print(
        f"{name}, seed {seed}: test {records.summarize([record])} ({record['data']['origin']}), "
        f"expected {_percent(expected)}, {record['seconds'] / 60:.1f} min on {record['device']}; "
        f'record {path}; model e2vit.experiments.run("{name}", seed={seed}{where}).model',
        flush=True,
    )


def _export(options: argparse.Namespace) -> int:
    deviation = export_run(find(options.name), options.file, options.seed, options.results)
    print(f"{options.file}: within {deviation:.0e} of torch")
    return 0


WIDTH = max(map(len, EXPERIMENTS))


def _percent(rate: float | None) -> str:
    return f"{100 * rate:.2f} %" if rate is not None else "–"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
