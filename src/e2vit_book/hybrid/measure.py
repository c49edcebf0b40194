"""What the chapter on the hybrid reads and measures: exactness block by block, costs, and what the records say."""

import dataclasses
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from e2vit.actions import act
from e2vit.experiments import RecordError, Run, record_of, run, seeds_present
from e2vit.experiments.catalog import EXPERIMENTS, build
from e2vit.groups import FiniteGroup


@torch.no_grad()
def stage_errors(model: nn.Module, images: Tensor, group: FiniteGroup, elements: list[int]) -> dict[str, float]:
    """For every stage of a model: max over r of max |f(r.x) − r.f(x)| / max |f(x)|; vectors are not expected to move.

    model: with a method ``stages(images)``, name → lifted map or vector.
    """
    upright = model.stages(images)
    errors = dict.fromkeys(upright, 0.0)
    for r in elements:
        turned = model.stages(act(group, r, images))
        for name, value in upright.items():
            expected = act(group, r, value) if value.ndim == 5 else value
            error = (turned[name] - expected).abs().max() / value.abs().max()
            errors[name] = max(errors[name], error.item())
    return errors


def multiply_adds(name: str) -> float:
    """Multiplications of one image in one forward pass of an experiment's model, counted by torch.

    Counted are convolutions, matrix products and attention. Group attention is counted in its plain form.
    """
    experiment = EXPERIMENTS[name]
    if hasattr(experiment.model, "backend"):
        plain = dataclasses.replace(experiment.model, backend="reference")
        experiment = dataclasses.replace(experiment, model=plain)
    model = build(experiment, 0).eval()
    config = experiment.model
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, config.in_channels, config.image_size, config.image_size))
    return counter.get_total_flops() / 2


def found(prefix: str, mode: str, quick: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
    """Experiment → its good records, for the names that begin so, in the order of the list.

    Mode "report" reads what there is, "train" makes what is missing, "quick" runs the few names given, in memory.
    """
    names = [name for name in EXPERIMENTS if name.startswith(prefix)]
    records: dict[str, list[dict[str, Any]]] = {}
    for name in quick if mode == "quick" else names:
        seeds = seeds_present(name) if mode == "report" else range(1 if mode == "quick" else EXPERIMENTS[name].seeds)
        for seed in seeds:
            try:
                record = record_of(name, mode, seed)
            except RecordError:  # stale or altered: it does not count
                continue
            records.setdefault(name, []).append(record)
    return records


def first_available(names: tuple[str, ...], mode: str) -> tuple[str, Run]:
    """The first experiment that has a record, else a moment of training of the first; and which it is, in words."""
    for name in names:
        try:
            return f"{name}, {'a moment of training' if mode == 'quick' else 'trained'}", run(name, mode)
        except RecordError:
            continue
    return f"{names[0]}, a moment of training", run(names[0], "quick")


def table(records: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """One row for each experiment: parameters, epochs, seeds, validation and test accuracy (%), mean over seeds.

    The test accuracy of several seeds comes with its standard error, that of one seed with Wilson's interval.
    """
    rows = []
    for name, of_name in records.items():
        test, validation = (
            pd.Series([record[split]["accuracy"] for record in of_name]) for split in ("test", "validation")
        )
        low, high = of_name[0]["test"]["interval"]
        spread = f" ± {100 * test.sem():.2f}" if len(test) > 1 else f" [{100 * low:.2f}, {100 * high:.2f}]"
        chosen = "–" if of_name[0]["configuration"]["all_training"] else f"{100 * validation.mean():.2f}"
        rows.append(
            {
                "experiment": name,
                "test (%)": f"{100 * test.mean():.2f}{spread}",
                "validation (%)": chosen,
                "parameters": f"{of_name[0]['parameters']:,}",
                "epochs": len(of_name[0]["curve"]),
                "seeds": len(test),
                "what it is": EXPERIMENTS[name].about.removeprefix("ablation of the hybrid: "),
            }
        )
    columns = ["experiment", "test (%)", "validation (%)", "parameters", "epochs", "seeds", "what it is"]
    return pd.DataFrame(rows, columns=columns).set_index("experiment")


def points(records: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """What the accuracy–cost picture draws: a row for each experiment, with its Wilson interval and its cost."""
    rows = []
    for name, of_name in records.items():
        test = pd.DataFrame([record["test"] for record in of_name])
        low, high = (pd.Series([interval[side] for interval in test["interval"]]).mean() for side in (0, 1))
        rows.append(
            {
                "name": name,
                "about": EXPERIMENTS[name].about,
                "kind": type(EXPERIMENTS[name].model).__name__[:-6],
                "parameters": of_name[0]["parameters"],
                "millions": multiply_adds(name) / 1e6,
                "seeds": len(of_name),
                "accuracy": test["accuracy"].mean(),
                "low": low,
                "high": high,
                "origin": of_name[0]["data"]["origin"],
            }
        )
    return pd.DataFrame(rows)
