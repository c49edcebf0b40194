"""python -m e2vit list | status | run NAME… | export NAME FILE"""

import argparse
import math
import sys
from pathlib import Path

from e2vit.data import DataError
from e2vit.experiments import EXPERIMENTS, RecordError, find, runner, status
from e2vit.export import ExportError, export_run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2vit", description="The experiments of the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every experiment in a line")
    of_status = commands.add_parser("status", help="which records are there, and what the missing ones cost")
    of_run = commands.add_parser("run", help="train what has no record yet")
    of_run.add_argument("names", nargs="*", metavar="NAME", help="experiments, see list")
    of_run.add_argument(
        "--missing", action="store_true", help="only what has no record; of all experiments, most wanted first"
    )
    of_run.add_argument("--seeds", type=int, help="how many seeds; the wanted number when left out")
    of_run.add_argument("--seed", type=int, help="this seed alone")
    of_run.add_argument("--budget-minutes", type=float, default=math.inf, help="stop before so long; continue later")
    of_run.add_argument("--jobs", type=int, default=1, help="so many processes side by side, for small networks")
    of_run.add_argument("--quiet", action="store_true", help="no progress bars")
    of_export = commands.add_parser("export", help="a trained model as an ONNX file")
    of_export.add_argument("name", metavar="NAME", help="an experiment with a record")
    of_export.add_argument("file", metavar="FILE", type=Path)
    of_export.add_argument("--seed", type=int, default=0)
    for command in (of_status, of_run, of_export):
        command.add_argument("--results", type=Path, help="folder of the records; data/results when left out")
    options = parser.parse_args(arguments)
    try:
        return {"list": _list, "status": _status, "run": _run, "export": _export}[options.command](options)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    except (DataError, ExportError, RecordError, KeyError, ValueError, OSError) as reason:
        print(f"e2vit: {reason.args[0] if isinstance(reason, KeyError) else reason}", file=sys.stderr)
        return 1


def _list(options) -> int:
    width = max(map(len, EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        expected = f"{100 * experiment.expected:.1f} %" if experiment.expected else "open"
        print(
            f"{name:{width}}  {experiment.about}; expected {expected}, one seed takes about "
            f"{experiment.gpu_minutes:g} min on a GPU, {experiment.cpu_minutes:g} min on two cores"
        )
    return 0


def _status(options) -> int:
    rows = status(options.results)
    width = max(map(len, EXPERIMENTS))
    print(f"{'':{width}}  present         missing         minutes a seed  present ones")
    print(f"{'experiment':{width}}  /wanted  stale  seeds             GPU      CPU  ran on")
    for row in rows:
        stale, missing = (",".join(map(str, row[key])) or "–" for key in ("stale", "missing"))
        print(
            f"{row['experiment']:{width}}  {row['present']:>3}/{row['wanted']:<3}  {stale:<5}  {missing:<14}  "
            f"{row['gpu_minutes']:>5g}  {row['cpu_minutes']:>7g}  {' / '.join(row['devices']) or '–'}".rstrip()
        )
    wanted, missing = sum(row["wanted"] for row in rows), sum(len(row["missing"]) for row in rows)
    print(
        f"{wanted - missing} of {wanted} wanted runs are there, {sum(row['present'] for row in rows)} with those "
        f"beyond; {sum(len(row['stale']) for row in rows)} are stale"
    )
    for what, count in (("the whole book", lambda row: row["wanted"]), ("to do", lambda row: len(row["missing"]))):
        gpu, cpu = (sum(count(row) * row[key] for row in rows) / 60 for key in ("gpu_minutes", "cpu_minutes"))
        print(f"{what}: {gpu:.1f} hours on one GPU, {cpu:.0f} hours on two cores")
    return 0


def _run(options) -> int:
    names = options.names or (list(EXPERIMENTS) if options.missing else [])
    if not names:
        raise ValueError("name the experiments to run, or say --missing; python -m e2vit list shows them")
    if options.jobs < 1:
        raise ValueError(f"jobs counts processes and starts at 1, got {options.jobs}")
    todo = runner.tasks([find(name) for name in names], options.seeds, options.seed)
    seconds = 60 * options.budget_minutes
    if options.jobs == 1:
        return runner.work(todo, options.results, seconds, missing=options.missing, progress=not options.quiet)
    arguments = ["run", *names, "--missing", "--quiet"]  # each looks for what no other has begun
    for option in ("seeds", "seed", "results"):
        if getattr(options, option) is not None:
            arguments += [f"--{option}", str(getattr(options, option))]
    arguments += ["--budget-minutes", str(options.budget_minutes)] if math.isfinite(seconds) else []
    return runner.side_by_side(arguments, options.jobs, seconds)


def _export(options) -> int:
    deviation = export_run(find(options.name), options.file, options.seed, options.results)
    print(f"{options.file}: within {deviation:.0e} of torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
