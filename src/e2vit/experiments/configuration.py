"""What decides the outcome of an experiment, as plain JSON: its digest, and where a recorded one differs from it."""

import dataclasses
import hashlib
import json
from typing import Any

from e2vit.experiments.experiment import Experiment
from e2vit.groups import FiniteGroup
from e2vit.pretrained import in_present_names

DECISIVE = ("model", "training", "data", "fraction", "all_training", "base", "watch_test")  # the rest is commentary
REMOVED = {"trainable": "", "label_smoothing": 0.0}  # name in old records → the only value that is still possible


def configuration(experiment: Experiment) -> dict[str, Any]:
    """What decides the outcome of an experiment, as plain JSON."""
    decisive = {key: plain(getattr(experiment, key)) for key in DECISIVE}
    return {"model_type": type(experiment.model).__name__, **decisive}


def configuration_hash(experiment: Experiment) -> str:
    return hashlib.sha256(json.dumps(configuration(experiment), sort_keys=True).encode()).hexdigest()


def changed(old: dict[str, Any], now: Any, keys: tuple[str, ...] | None = None, prefix: str = "") -> list[str]:
    """The settings in which a recorded configuration differs from the present one.

    A setting that the record lacks came later: its default is what the record was made with.
    """
    fields = {f.name: f for f in dataclasses.fields(now) if keys is None or f.name in keys}
    old = in_present_names(old, fields)
    names = [prefix + key for key, value in old.items() if key not in {*fields, "model_type"} and not _void(key, value)]
    for key, each in fields.items():
        value = getattr(now, key)
        if key not in old:
            names += [prefix + key] if plain(value) != plain(each.default) else []
        elif dataclasses.is_dataclass(value) and not isinstance(value, FiniteGroup) and isinstance(old[key], dict):
            names += changed(old[key], value, prefix=f"{prefix}{key}.")
        elif old[key] != json.loads(json.dumps(plain(value))):
            names.append(prefix + key)
    return names


def _void(key: str, value: Any) -> bool:
    return key in REMOVED and REMOVED[key] == value


def plain(value: Any) -> Any:
    """A configuration as JSON: groups and functions by their names."""
    if isinstance(value, FiniteGroup):
        return value.name
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.__name__ if callable(value) else value
