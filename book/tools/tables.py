"""Writes the tables of README.md and of the pages from the records, each between its two marks.

    python book/tools/tables.py [--check]

Accuracy is the mean with its 95 % interval: Student's over three or more seeds, else Wilson's over the test images.
--check writes nothing and fails when a table is out of date.
"""

import argparse
import json
import re
import sys
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from shown import HEADLINE, ROWS

from e2vit.experiments import records

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "data" / "results"
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Record = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when a table is out of date")
    options = parser.parse_args()
    found = {}
    for record in records.find():
        found.setdefault((record["experiment"], record["data"]["origin"]), []).append(record)
    costs = read(RESULTS / "benchmarks" / "throughput.json")
    pages = {
        "README.md": {"headline": sentences(found, costs)},
        "book/results.md": {
            "headline": headline(found, costs),
            "costs": prices(found, costs),
            "published": published(read(ROOT / "data" / "published.json")),
            "records": everything(found),
        },
        "book/live.md": {"browser": browser(found, read(RESULTS / "benchmarks" / "browser.json"))},
    }
    outdated = False
    for name, tables in pages.items():
        path = ROOT / name
        before = after = path.read_text(encoding="utf-8")
        for mark, lines in tables.items():
            after = updated(after, mark, lines)
        if before != after and options.check:
            print(f"{name} is out of date: run make tables", file=sys.stderr)
        elif before != after:
            path.write_text(after, encoding="utf-8")
        outdated |= before != after
    return int(options.check and outdated)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def updated(text: str, mark: str, lines: list[str]) -> str:
    """Return the text with new lines between the two marks of that name."""
    begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the marks of the table {mark} are missing or stand twice")
    return text[: text.index(begin) + len(begin)] + "\n".join(lines) + "\n" + text[text.index(end) :]


def table(header: str, rows: list[list[str]]) -> list[str]:
    """Return a Markdown table; a column whose title ends in a colon is aligned to the right."""
    titles = header.split("|")
    align = "|".join("--:" if title.endswith(":") else "---" for title in titles)
    return [f"| {' | '.join(t.rstrip(':') for t in titles)} |", f"|{align}|", *(f"| {' | '.join(r)} |" for r in rows)]


def accuracy(runs: list[Record]) -> str:
    said = str(records.summarize(runs)).replace(" %", "")
    return f"{said}, {len(runs)}&nbsp;seed{'s' * (len(runs) > 1)}"


def share(value: float) -> str:
    """Return a relative change in percent, or as a power of ten where it is rounding."""
    if value > 1e-6:
        return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(RAISED)}" if value else "0"


def device(record: Record) -> str:
    """Return the processor's name without its marks: "Intel Xeon, 2 threads"."""
    plain = re.sub(r"\((R|TM|CPU)\)|\bProcessor\b", " ", record["device"])
    return re.sub(r"\b1 threads", "1 thread", re.sub(r"\s+", " ", plain).replace(" ,", ",")).strip()


def named(found: dict, name: str, label: str) -> list[tuple[str, list[Record]]]:
    """Return the row of an experiment; one for each copy of the images when there are several."""
    there = {origin: runs for (experiment, origin), runs in sorted(found.items()) if experiment == name}
    return [(f"{label} ({origin})" if len(there) > 1 else label, runs) for origin, runs in there.items()]


def headline(found: dict, costs: Record) -> list[str]:
    rows = [
        [images, label, accuracy(runs), f"{runs[0]['parameters']:,}", change(runs, costs["models"].get(name, {}))]
        for images, names in HEADLINE.items()
        for name, row in names.items()
        for label, runs in named(found, name, row)
    ]
    return table("trained on|model|test accuracy (%):|parameters:|change in a turn:", rows)


def sentences(found: dict, costs: Record) -> list[str]:
    """Return the three sentences of README.md on accuracy and exactness."""
    runs = {name: of_one for (name, _), of_one in sorted(found.items())}
    said = {name: str(records.summarize(of_one)) for name, of_one in runs.items()}
    turned = {name: change(of_one, costs["models"].get(name, {})) for name, of_one in runs.items()}
    hybrid, vit, upright = "rotmnist/hybrid-c4", "rotmnist/vit", "rotmnist_upright/vit"
    views = "post_hoc/{}/none/mean_logits"
    return [
        f"- In one pass the hybrid over C4 reaches {said[hybrid]} with {runs[hybrid][0]['parameters']:,} parameters; "
        f"the plain ViT, with {runs[vit][0]['parameters']:,}, reaches {said[vit]} in one pass and "
        f"{said[views.format('rotated')]} as the mean of 16 views.",
        f"- A quarter turn changes the logits of the hybrid by {turned[hybrid]} of the largest, those of the ViT by "
        f"{turned[vit]}, although it was trained on turned digits.",
        f"- Trained on upright digits alone, the hybrid still reaches {said['rotmnist_upright/hybrid-c4']}, a small "
        f"ViT {said[upright]} in one pass and {said[views.format('upright')]} as the mean of 16 views.",
    ]


def change(runs: list[Record], cost: Record) -> str:
    """Return the change under quarter turns, where it was measured with the weights of one of these runs."""
    weights = {run["checkpoint_sha256"] for run in runs}
    return share(cost["change_trained"]) if cost.get("weights", {}).get("checkpoint_sha256") in weights else "–"


def prices(found: dict, costs: Record) -> list[str]:
    rows = []
    for name, row in ROWS.items():
        cost = costs["models"].get(name)
        for label, runs in named(found, name, row) if cost else []:
            scores = f"{cost['attention_scores']:,}" if cost["attention_scores"] else "none"
            seconds, where = mean(run["seconds"] for run in runs), " / ".join(sorted({device(run) for run in runs}))
            spent = f"{seconds:,.0f} s, {where}" if seconds else "no training"
            rows.append([f"{label}, `{name}`", scores, f"{cost['images_per_second']:,.0f}", spent])
    lines = table("model, experiment|attention scores:|images per second:|training of one seed", rows)
    return [*lines, "", f"Images per second: forward, all models in alternation in one process ({device(costs)})."]


def published(rows: list[Record]) -> list[str]:
    lines = [
        [
            row["model"] + (f", {row['group']}" if row.get("group") else ""),
            str(row["accuracy"]),
            f"[{row['source']}]({row['link']}): {row['note']}",
        ]
        for row in rows
    ]
    return table("published model|test accuracy (%):|source, and what to mind", lines)


def everything(found: dict) -> list[str]:
    """Return a fold for each family of experiments, in it a row for each experiment and copy of the images."""
    lines = []
    for family, keys in groupby(sorted(found), lambda key: key[0].rpartition("/")[0]):
        keys = sorted(keys, key=lambda key: -records.summarize(found[key]).mean)
        best = records.summarize(found[keys[0]]).mean
        rows = [entry(*key, found[key], best) for key in keys]
        count = f"{len(rows)} experiment{'s' * (len(rows) > 1)}"
        header = "experiment|test accuracy (%):|parameters:|minutes:|images; device"
        lines += [f":::{{dropdown}} {family}: {count}", *table(header, rows), ":::", ""]
    return lines[:-1] or ["No run has left a record."]


def entry(name: str, origin: str, runs: list[Record], best: float) -> list[str]:
    """Return a row; bold where the interval reaches the best mean of its family."""
    minutes, where = mean(run["seconds"] for run in runs) / 60, " / ".join(sorted({device(run) for run in runs}))
    said = accuracy(runs)
    said = f"**{said}**" if records.summarize(runs).high >= best else said
    return [f"`{name}`", said, f"{runs[0]['parameters']:,}", f"{minutes:.0f}", f"{origin}; {where}"]


def browser(found: dict, measured: Record) -> list[str]:
    """Return the table of the networks that were timed in a web page, with the accuracy of their records."""
    rows = []
    for name, timed in measured["networks"].items():
        for label, runs in named(found, name, f"`{name}`"):
            cost = timed["milliseconds"]
            shown = f"{cost:.1f}" if cost < 100 else f"{cost:,.0f}"
            images = f"{runs[0]['training_images']:,}"
            rows.append([label, f"{runs[0]['parameters']:,}", accuracy(runs), images, shown])
    lines = table("network|parameters:|test accuracy (%):|training images:|milliseconds for an image:", rows)
    return [*lines, "", f"Milliseconds: {measured['browser']}, one thread, {measured['device']}, the best of several."]


if __name__ == "__main__":
    sys.exit(main())
