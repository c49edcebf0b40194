"""Trained networks in the package, and folders with one's own: config.json beside model.safetensors.

The two files have the names that the Hugging Face Hub uses, so a downloaded snapshot is such a folder.
"""

import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from e2vit import groups, models
from e2vit.groups import FiniteGroup, cyclic, dihedral

WEIGHTS = Path(__file__).with_name("weights")
RENAMED = {"channels": "in_channels"}  # fields of configurations: name in old files → name now
RENAMED_VALUES = {("position", "sound"): "stable"}  # the same of values


def load(name: str) -> nn.Module:
    """Return a trained network of the package in evaluation mode, by its name: ``load("hybrid-c4")``.

    ``available()`` lists the names. All were trained on 28×28 digits in [0, 1], shape (batch, 1, 28, 28).
    """
    if name not in available():
        raise ValueError(f"no network of the package is called {name!r}; there are {', '.join(available())}")
    return from_pretrained(WEIGHTS / name)


def available() -> list[str]:
    """List the names that ``load`` accepts."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Write the configuration and the weights of a model of ``e2vit.models`` into a folder."""
    name, config = type(model).__name__, getattr(model, "config", None)
    if getattr(models, f"{name}Config", None) is not type(config):
        raise TypeError(f"{name} is not a configured model of e2vit.models; of a wrapper, save the wrapped model")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"model": name, "config": _encoded(config)}, indent=1)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")


def from_pretrained(folder: str | Path) -> nn.Module:
    """Return the model that ``save_pretrained`` wrote into a folder, on the CPU and in evaluation mode."""
    folder = Path(folder)
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, config = getattr(models, said["model"]), getattr(models, f"{said['model']}Config")
        model = kind(_decoded(config, said["config"]))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except FileNotFoundError as reason:
        raise ValueError(f"{folder} holds no model: {Path(reason.filename).name} is missing") from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as reason:
        raise ValueError(f"{folder / 'config.json'} is not a configuration of a model: {reason}") from None
    except (SafetensorError, RuntimeError) as reason:
        first = str(reason).splitlines()[0]
        raise ValueError(f"{folder / 'model.safetensors'} does not hold the weights of this model: {first}") from None
    return model.eval()


def in_present_names(values: dict[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """A configuration as an older version wrote it, with the names that its fields and values have now."""
    values = {key if key in fields else RENAMED.get(key, key): value for key, value in values.items()}
    return values | {key: value for (key, before), value in RENAMED_VALUES.items() if values.get(key) == before}


def _encoded(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, FiniteGroup):
        return {field.name: _encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, FiniteGroup):
        if _group(value.name) != value:
            raise ValueError(f"the group {value.name} is neither cyclic(n) nor dihedral(n), and only these are saved")
        return value.name
    return value.__name__ if callable(value) else value


def _decoded(kind: type, values: dict[str, Any]) -> Any:
    """Return the configuration with these values; the default of each field tells how its value is written."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    values = in_present_names(values, defaults)
    if unknown := values.keys() - defaults.keys():
        raise TypeError(f"{kind.__name__} has no field {sorted(unknown)[0]!r}")
    return kind(**{key: _as(defaults[key], value) for key, value in values.items()})


def _as(default: Any, value: Any) -> Any:
    if isinstance(default, FiniteGroup):
        return _group(value)
    if dataclasses.is_dataclass(default):
        return _decoded(type(default), value)
    if isinstance(default, Callable):
        return getattr(groups, value)
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _group(name: str) -> FiniteGroup:
    """Return the group of a name such as C4 or D4."""
    family = {"C": cyclic, "D": dihedral}.get(name[:1])
    if family is None or not name[1:].isdecimal():
        raise ValueError(f"{name} is the name of neither cyclic(n) nor dihedral(n)")
    return family(int(name[1:]))
