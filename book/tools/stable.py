"""An executed notebook in the form that a second execution gives again, byte for byte."""

import json
import re

RANDOM = (
    r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])",  # a UUID: cells of tables, scripts
    r"(?<![0-9a-zA-Z+/=])[0-9a-f]{32}(?![0-9a-zA-Z+/=])",  # the same without dashes
    r"\bT_[0-9a-f]{5}(?![0-9a-zA-Z])",  # pandas' styled tables
    r"\b0x[0-9a-f]{8,16}\b",  # memory addresses
)


def stable(notebook: dict) -> dict:
    """The notebook without what differs from one execution to the next: times, versions, warnings, random names; and
    without the states of widgets, which need a kernel."""
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        metadata = {k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution") and v != []}
        cell = {**cell, "id": f"cell-{number:03d}", "metadata": metadata}
        if cell["cell_type"] == "code":
            cell["outputs"] = _joined(cell["outputs"])
        cells.append(cell)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {
            "name": "python",
            "file_extension": ".py",
            "mimetype": "text/x-python",
            "pygments_lexer": "ipython3",
        },
    }
    metadata |= {key: notebook["metadata"][key] for key in ("e2vit",) if key in notebook["metadata"]}
    return _renamed({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def _joined(outputs: list[dict]) -> list[dict]:
    """Without standard error; neighboring pieces of standard output as one, since their cut is a matter of time."""
    joined: list[dict] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if joined and output["output_type"] == "stream" == joined[-1]["output_type"]:
            joined[-1] = {**joined[-1], "text": joined[-1]["text"] + output["text"]}
        else:
            joined.append(output)
    return joined


def _renamed(notebook: dict) -> dict:
    """Random names and memory addresses in outputs, numbered in the order in which they appear."""
    content = json.dumps([cell.get("outputs") for cell in notebook["cells"]], ensure_ascii=False)
    names: dict[str, str] = {}
    for found in re.findall("|".join(RANDOM), content):
        names.setdefault(found, _numbered(found, len(names)))
    outputs = json.loads(re.sub("|".join(RANDOM), lambda match: names[match[0]], content))
    pairs = zip(notebook["cells"], outputs, strict=True)
    return {**notebook, "cells": [cell if new is None else {**cell, "outputs": new} for cell, new in pairs]}


def _numbered(name: str, number: int) -> str:
    """A name of the same shape that only says when it first appeared."""
    if name.startswith("0x"):
        return "0x" + "0" * len(name[2:])
    if name.startswith("T_"):
        return f"T_{number:05x}"
    digits = iter(f"{number:0{len(name.replace('-', ''))}x}")
    return "".join("-" if letter == "-" else next(digits) for letter in name)
