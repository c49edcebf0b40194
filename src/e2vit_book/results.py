"""What several chapters read and count: records, trained networks, benchmarks, multiplications."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, mm_flop

from e2vit.experiments import Experiment, RecordError, Run, build, record_of, records, results_folder, run
from e2vit.layers import LocalGroupSelfAttention


def found(mode: str, quick: Iterable[str] = (), prefix: str = "", **fields: Any) -> list[dict[str, Any]]:
    """The records of the experiments whose name starts with prefix and that have these fields.

    Mode "report" reads the records there are, "train" makes the missing ones, "quick" trains small copies of the few
    names given for a moment.
    """
    if mode == "quick":
        return [record_of(name, mode) for name in quick]
    if mode == "train":
        for experiment in records.matching(prefix, **fields):
            for seed in range(experiment.seeds):
                record_of(experiment.name, mode, seed)
    return records.find(prefix, **fields)


def first(names: Sequence[str], mode: str) -> Run | None:
    """The first of these experiments that has a record; None without any.

    Mode "train" makes the last one, the cheapest, where none has a record; mode "quick" trains a small copy of it.
    """
    for name in names[-1:] if mode == "quick" else names:
        try:
            return run(name, "report" if name != names[-1] else mode)
        except RecordError:
            continue
    return None


def trained(networks: Mapping[str, Sequence[str]], mode: str) -> dict[str, Run]:
    """The first of each network's experiments, see ``first``; a network without a record is left out."""
    runs = {label: first(names, mode) for label, names in networks.items()}
    return {label: each for label, each in runs.items() if each is not None}


def benchmark(name: str) -> dict[str, Any]:
    """Read a record of a benchmark: data/results/benchmarks/<name>.json."""
    return json.loads((results_folder() / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def multiply_adds(experiment: Experiment) -> float:
    """Multiplications of one forward pass on one image: convolutions, matrix products and attention.

    Group attention is counted in its plain form, which is the one that torch can count.
    """
    model, config = build(experiment, 0).eval(), experiment.model
    for module in model.modules():
        if isinstance(module, LocalGroupSelfAttention):
            module.backend = "reference"
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **kwargs: mm_flop(a, b)}  # which torch does not count by itself
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        model(torch.zeros(1, config.in_channels, config.image_size, config.image_size))
    return counter.get_total_flops() / 2
