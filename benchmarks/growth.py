"""How time and memory of one group attention layer grow with the order of the group and with the side of the map.

    python benchmarks/growth.py [--repeats 5]

One layer as in the released rotMNIST network (20 channels, 9 heads, 10 features, window 9, poses on both sides), one
image, forward, float32: by the written-out formula and by the fast kernel, and once with global attention instead of a
window. Prints a table and writes data/results/benchmarks/growth.json.
"""

import argparse
import sys
from functools import partial

import torch
from attention import resident
from rounds import conditions, record_path, turns, write

from e2vit.groups import cyclic
from e2vit.kernels import reference
from e2vit.layers import GroupSelfAttention, LocalGroupSelfAttention

CHANNELS, HEADS, FEATURES, WINDOW = 20, 9, 10, 9
ORDERS = {"naive": (1, 2, 3, 4, 6, 8), "numba": (1, 2, 3, 4, 6, 8, 12, 16)}  # at side 14
SIDES = {"naive": (10, 14, 20, 28, 36), "numba": (10, 14, 20, 28, 36, 48), "global": (4, 6, 8, 10, 14)}  # for C4


def layer(backend: str, order: int) -> torch.nn.Module:
    torch.manual_seed(0)
    if backend == "global":
        return GroupSelfAttention(cyclic(order), CHANNELS, HEADS, FEATURES).eval()
    name = "reference" if backend == "naive" else backend
    return LocalGroupSelfAttention(cyclic(order), CHANNELS, HEADS, FEATURES, window=WINDOW, backend=name).eval()


def megabytes(call) -> float:
    """Peak memory of a call above what the process held before."""
    call()  # compiles what needs compiling, and warms the caches
    before = resident("cpu", peak=False)
    call()
    return float(f"{(resident('cpu', peak=True) - before) / 1e6:.4g}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference.TILE = sys.maxsize  # "naive" is the reference with every score in memory
    plan = [(name, order, 14, "order") for name, orders in ORDERS.items() for order in orders]
    plan += [(name, 4, side, "side") for name, sides in SIDES.items() for side in sides]
    calls = {key: partial(layer(key[0], key[1]), torch.randn(1, CHANNELS, key[1], key[2], key[2])) for key in plan}
    peaks = {key: megabytes(call) for key, call in calls.items()}
    rows = []
    for key, seconds in turns(calls, options.repeats).items():
        row = dict(zip(("backend", "order", "side", "varied"), key, strict=True))
        rows.append(row | {"seconds": [float(f"{s:.4g}") for s in seconds], "peak_megabytes": peaks[key]})
        print(f"{key[0]:>7} C{key[1]:<3} {key[2]:>3} pixels  {min(seconds):8.4f} s  {peaks[key]:8.1f} MB")
    what = (
        "one group attention layer of the released rotMNIST network's shape, one image, forward, float32; "
        "seconds of every repetition, megabytes above what the process held before"
    )
    write(record_path("growth"), {"what": what, **conditions(), "measurements": rows})


if __name__ == "__main__":
    main()
