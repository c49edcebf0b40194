"""Time and memory of group self-attention: every score in memory ("naive") against the tiled reference and the kernels.

    python benchmarks/attention.py [--batches 1 8] [--groups C1 C4] [--seconds 60] [--memory 12]

What is measured: the whole released rotMNIST network, forward and one training step, in float32; and its first group
layer alone, whose arithmetic is counted. Every number comes from a process of its own, so that its peak memory is its
own; what would take longer than --seconds or more than --memory gigabytes is left out, by an estimate from the number
of scores. With one thread the clock is the processor time of the process, which other work on the machine does not
touch; else, and on a GPU, it is the wall clock. Memory is the peak above what the process held before.
Prints a table and writes data/results/benchmarks/attention.json (attention-cuda.json on a GPU).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from e2vit.groups import cayley_index, cyclic, dihedral
from e2vit.kernels import attend, reference
from e2vit.models import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.training.loop import write_atomically

GROUPS = {"C1": cyclic(1), "C4": cyclic(4), "C8": cyclic(8), "D4": dihedral(4)}
SIDES = (28, 28, 24, 12, 8, 6)  # maps of the lifting layer and the five group layers
WINDOW, HEADS, FEATURES = 9, 9, 10
NANOSECONDS = {"naive": 20, "reference": 8, "numba": 2, "triton": 0.1}  # a forward, for each score: only to plan
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}  # an allocator that gives nothing back


def scores(group: str, batch: int) -> int:
    """Scores of the whole network."""
    order = GROUPS[group].order
    each = [order * (1 if layer == 0 else order**2) * side**2 for layer, side in enumerate(SIDES)]
    return batch * HEADS * WINDOW**2 * sum(each)


def work(group: str, batch: int) -> dict[str, int]:
    """What the first group layer has to do in a forward: operations, exponentials, bytes read and written."""
    order, pixels = GROUPS[group].order, batch * HEADS * SIDES[1] ** 2
    products = 3 * order**2 * FEATURES + 3 * order**3  # contents, places, values; normalizing and summing weights
    padded = batch * HEADS * (SIDES[1] + WINDOW - 1) ** 2
    return {
        "operations": 2 * pixels * WINDOW**2 * products,
        "exponentials": pixels * WINDOW**2 * 2 * order**2,
        "bytes": 4 * order * FEATURES * (2 * pixels + 2 * padded),
    }


def layer(group: str, batch: int, backend: str, device: str):
    """The first group layer as a function without arguments, and what it differentiates."""
    order, generator = GROUPS[group].order, torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(device).requires_grad_()

    padded = SIDES[1] + WINDOW - 1
    inputs = [random(batch, HEADS, FEATURES, order, SIDES[1], SIDES[1])]
    inputs += [random(batch, HEADS, FEATURES, order, padded, padded) for _ in range(2)]
    inputs += [random(order, WINDOW**2, FEATURES), random(order, FEATURES)]
    table = cayley_index(GROUPS[group]).to(device)
    return lambda: attend(*inputs, table, backend=backend)


def network(group: str, batch: int, backend: str, device: str):
    torch.manual_seed(0)
    model = GroupAttentionNet(GroupAttentionNetConfig(group=GROUPS[group], backend=backend)).to(device)
    images = torch.rand(batch, 1, SIDES[0], SIDES[0], device=device)
    return lambda: model(images)


def timed(function, device: str) -> float:
    """Seconds of one call."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    started = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def resident(device: str, peak: bool) -> int:
    """Bytes that this process holds (for a GPU: in tensors) now, or at most since the last question for now."""
    if device == "cuda":
        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: the peak since the start
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM" if peak else "VmRSS"))
    return int(line.split()[1]) * 1024


def one(subject: str, group: str, batch: int, backend: str, mode: str, repeats: int, device: str) -> dict:
    """One measurement, in this process. A small call first compiles what needs compiling."""
    build = {"layer": layer, "network": network}[subject]

    def call(function):
        with torch.set_grad_enabled(mode == "step"):
            out = function()
            if mode == "step":
                out.square().mean().backward()

    if backend == "naive":  # every score in memory: the reference in one tile
        reference.TILE, backend = sys.maxsize, "reference"
    if backend in ("numba", "triton"):
        call(build("C1", 1, backend, device))
    function = build(group, batch, backend, device)
    before = resident(device, peak=False)
    seconds = [timed(lambda: call(function), device)]
    peak = resident(device, peak=True) - before
    seconds += [timed(lambda: call(function), device) for _ in range(repeats - 1)]
    return {"seconds": min(seconds), "peak_megabytes": peak / 1e6}


def ceiling(device: str) -> dict:
    """What a matrix product and a copy reach."""
    x, y = (torch.rand(2048, 2048, device=device) for _ in range(2))
    source = torch.rand(1 << 26, device=device)
    target = torch.empty_like(source)
    product = min(timed(lambda: x @ y, device) for _ in range(6))
    copy = min(timed(lambda: target.copy_(source), device) for _ in range(6))
    return {"matmul_gigaflops": 2 * 2048**3 / product / 1e9, "copy_gigabytes_per_second": 8 * (1 << 26) / copy / 1e9}


def apart(environment: dict | None = None, **task) -> dict:
    """The task in a fresh process."""
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(subject, group, batch, mode, backends, limits, device, environment=None, repeats=None) -> dict:
    """backend → measurement, and under "ratio" how many times less time and memory than naive each needs."""
    count = scores(group, batch) if subject == "network" else scores(group, batch) * 36 // 77
    found = {}
    for backend in backends:
        seconds = count * NANOSECONDS[backend] * 1e-9 * (4 if mode == "step" else 1)
        gigabytes = count * 4e-9 * (4.3 if mode == "step" else 2.3) if backend == "naive" else 0
        if seconds > limits["seconds"] or gigabytes > limits["memory"]:
            continue
        times = repeats or (1 if seconds > 5 else 3)
        found[backend] = apart(
            environment,
            subject=subject,
            group=group,
            batch=batch,
            backend=backend,
            mode=mode,
            repeats=times,
            device=device,
        )
    naive = found.get("naive", {})
    if "seconds" in naive:
        smallest = {"seconds": 1e-6, "peak_megabytes": 1.0}
        found["ratio"] = {
            name: {key: round(naive[key] / max(value[key], least), 2) for key, least in smallest.items()}
            for name, value in found.items()
            if name != "naive" and "seconds" in value
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", type=json.loads)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--subjects", nargs="+", default=["layer", "network"])
    parser.add_argument("--modes", nargs="+", default=["forward", "step"])
    parser.add_argument("--backends", nargs="+", default=["naive", "reference", "numba", "triton"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--memory", type=float, default=12)
    options = parser.parse_args()
    if options.task:
        print(
            json.dumps(ceiling(options.task["device"]) if options.task["subject"] == "ceiling" else one(**options.task))
        )
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = "triton" if device == "cuda" else "numba"
    limits = {"seconds": options.seconds, "memory": options.memory}
    record = {
        "what": "released rotMNIST network (or its first group layer), float32; seconds of one forward or training "
        "step, megabytes above what the process held before; ratio: naive over the backend, less than a megabyte "
        "counted as one",
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "clock": "processor time" if device == "cpu" and torch.get_num_threads() == 1 else "wall clock",
        "torch": torch.__version__,
        "ceiling": apart(subject="ceiling", device=device),
        "measurements": [],
    }
    path = Path(__file__).resolve().parents[1] / "data" / "results" / "benchmarks"
    path = path / ("attention.json" if device == "cpu" else "attention-cuda.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():  # what is not measured again stays, when it is of the same device
        before = json.loads(path.read_text())
        record["measurements"] = before["measurements"] if before["device"] == record["device"] else []
    plan = [("layer", group, 1) for group in options.groups if "layer" in options.subjects]
    plan += [
        ("network", group, batch)
        for batch in options.batches
        for group in options.groups
        if "network" in options.subjects
    ]
    backends = [name for name in ("naive", "reference", fast) if name in options.backends]
    print(json.dumps(record["ceiling"]))
    for subject, group, batch in plan:
        for mode in options.modes:
            row = {"subject": subject, "group": group, "batch": batch, "mode": mode}
            row |= measure(subject, group, batch, mode, backends, limits, device)
            if subject == "layer" and mode == "forward" and "seconds" in row.get(fast, {}):
                row["achieved"] = {
                    f"giga_{name}_per_second": round(amount / row[fast]["seconds"] / 1e9, 2)
                    for name, amount in work(group, batch).items()
                }
            _note(record, row, path)
            if device == "cpu" and subject == "network" and (group, batch) == ("C4", 8):
                row = {key: row[key] for key in ("subject", "group", "batch", "mode")} | {"allocator": KEEPING}
                row |= measure(subject, group, batch, mode, ["naive", fast], limits, device, KEEPING, repeats=2)
                _note(record, row, path)


def _note(record: dict, row: dict, path: Path) -> None:
    """Print the row, add it to the record and write what there is."""
    for value in row.values():
        if isinstance(value, dict) and "seconds" in value:
            value.update({key: float(f"{value[key]:.4g}") for key in ("seconds", "peak_megabytes") if key in value})
    key = ("subject", "group", "batch", "mode", "allocator")
    others = [old for old in record["measurements"] if any(old.get(name) != row.get(name) for name in key)]
    record["measurements"] = [*others, row]
    print(
        "  ".join(
            f"{value:>8}" if isinstance(value, (str, int)) else f"{name} {json.dumps(value)}"
            for name, value in row.items()
        ),
        flush=True,
    )
    write_atomically(path, lambda file: Path(file).write_text(json.dumps(record, indent=1) + "\n"))


if __name__ == "__main__":
    main()
