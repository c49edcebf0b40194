"""How time and memory of one group attention layer grow with the order of the group and with the side of the map.

    python benchmarks/growth.py [--repeats 5]

One layer as in the released rotMNIST network (20 channels, 9 heads, 10 features, window 9, poses on both sides), one
image, forward, float32: by the written-out formula and by the fast kernel, and once with global attention instead of a
window. Every size is measured several times on the clock of benchmarks/attention.py, the sizes in turn, so that a slow
moment of the machine does not fall on one of them alone.
Prints a table and writes data/results/benchmarks/growth.json.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from attention import resident, timed

from e2vit.groups import cyclic
from e2vit.kernels import reference
from e2vit.layers import GroupSelfAttention, LocalGroupSelfAttention
from e2vit.training.loop import write_atomically

CHANNELS, HEADS, FEATURES, WINDOW = 20, 9, 10, 9
ORDERS = {"naive": (1, 2, 3, 4, 6, 8), "numba": (1, 2, 3, 4, 6, 8, 12, 16)}  # at side 14
SIDES = {"naive": (10, 14, 20, 28, 36), "numba": (10, 14, 20, 28, 36, 48), "global": (4, 6, 8, 10, 14)}  # for C4


def layer(backend: str, order: int) -> torch.nn.Module:
    torch.manual_seed(0)
    if backend == "global":
        return GroupSelfAttention(cyclic(order), CHANNELS, HEADS, FEATURES).eval()
    reference.TILE = sys.maxsize  # "naive" is the reference with every score in memory
    name = "reference" if backend == "naive" else backend
    return LocalGroupSelfAttention(cyclic(order), CHANNELS, HEADS, FEATURES, window=WINDOW, backend=name).eval()


@torch.no_grad()
def measure(backend: str, order: int, side: int, found: dict) -> None:
    """One more measurement of this size; the first also of the memory."""
    module, x = layer(backend, order), torch.randn(1, CHANNELS, order, side, side)
    module(x)  # compiles what needs compiling, and warms the caches
    before = resident("cpu", peak=False)
    seconds = timed(lambda: module(x), "cpu")
    megabytes = (resident("cpu", peak=True) - before) / 1e6
    found["seconds"].append(float(f"{seconds:.4g}"))
    found["peak_megabytes"] = float(f"{max(found['peak_megabytes'], megabytes):.4g}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = [(name, order, 14, "order") for name, orders in ORDERS.items() for order in orders]
    plan += [(name, 4, side, "side") for name, sides in SIDES.items() for side in sides]
    rows = [
        {"backend": name, "order": order, "side": side, "varied": varied, "seconds": [], "peak_megabytes": 0.0}
        for name, order, side, varied in plan
    ]
    for _ in range(options.repeats):
        for row in rows:
            measure(row["backend"], row["order"], row["side"], row)
    for row in rows:
        print(
            f"{row['backend']:>7} C{row['order']:<3} {row['side']:>3} pixels  {min(row['seconds']):8.4f} s  "
            f"{row['peak_megabytes']:8.1f} MB"
        )
    record = {
        "what": "one group attention layer of the released rotMNIST network's shape, one image, forward, float32; "
        "seconds of every repetition, megabytes above what the process held before",
        "device": f"{platform.machine()} CPU, 1 thread",
        "clock": "processor time",
        "torch": torch.__version__,
        "measurements": rows,
    }
    path = Path(__file__).resolve().parents[1] / "data" / "results" / "benchmarks" / "growth.json"
    write_atomically(path, lambda file: Path(file).write_text(json.dumps(record, indent=1) + "\n"))


if __name__ == "__main__":
    main()
