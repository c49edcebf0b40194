"""Writes the headline tables into README.md, between its two marks, from the records; the introduction includes them.

    python book/tools/headline.py [--check]

Reads the records that are good (one that is stale or altered is left out, as everywhere), benchmarks/throughput.json
for speed, attention scores and exactness, and data/published.json for the figures of others, which stay in a table of
their own. --check writes nothing and fails when README.md is out of date.
"""

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from e2vit.experiments import EXPERIMENTS, RecordError, read_record, seeds_present

ROOT = Path(__file__).resolve().parents[2]
MARKS = ("<!-- headline:begin -->\n", "<!-- headline:end -->")

SECTIONS = {  # what its rows have in common → experiment → the name of its row
    "Trained on turned digits": {
        "rotmnist/hybrid-c4": "**Hybrid over C4**",
        "rotmnist/hybrid-c4-unaugmented": "Hybrid over C4, no augmentation",
        "rotmnist/vit": "Plain ViT",
        "post_hoc/rotated/none/mean_logits": "Plain ViT, mean of 16 views",
        "post_hoc/rotated/head/orbit_convolution": "Plain ViT, orbit convolution over 16 views",
        "rotmnist/corrected-c4": "Group attention over C4, corrected",
        "rotmnist/gevit-c4": "GE-ViT over C4",
        "rotmnist/gsa-c4": "GSA-Net over C4",
        "rotmnist/attention-z2": "Self-attention without a group",
        "rotmnist/gcnn-p4cnn": "Group CNN (P4CNN)",
        "rotmnist/gcnn-modern": "Group CNN, deeper",
        "rotmnist/gcnn-z2cnn": "Plain CNN (Z2CNN)",
        "rotmnist/hybrid-c8": "Hybrid over C8",
        "rotmnist/hybrid-c8-large": "Hybrid over C8, wide",
    },
    "Trained on a tenth of them": {
        "rotmnist/hybrid-c4-tenth": "**Hybrid over C4**",
        "rotmnist/vit-tenth": "Small plain ViT",
        "rotmnist/corrected-c4-tenth": "Group attention over C4, corrected",
        "rotmnist/gevit-c4-tenth": "GE-ViT over C4",
        "rotmnist/gsa-c4-tenth": "GSA-Net over C4",
        "rotmnist/attention-z2-tenth": "Self-attention without a group",
        "rotmnist/corrected-c4-tenth-tuned": "Group attention over C4, trained as the ViT is",
        "rotmnist/attention-z2-tenth-tuned": "The same without a group",
    },
    "Trained on upright digits alone, tested on turned ones": {
        "rotmnist_upright/hybrid-c4": "**Hybrid over C4**",
        "rotmnist_upright/vit": "Small plain ViT",
        "post_hoc/upright/none/mean_logits": "The same, mean of 16 views",
        "post_hoc/upright/none/most_certain": "The same, surest of 16 views",
        "post_hoc/upright/head/orbit_convolution": "The same, orbit convolution over 16 views",
    },
}
SOFT_HYPHEN = "&shy;"  # where a word may break on a phone
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MODELS = {name: label for section in SECTIONS.values() for name, label in section.items()}


def records(results: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Origin of the images → the records of an experiment, seed after seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds_present(name, results):
        try:
            record = read_record(name, seed, results)
        except RecordError:
            continue
        found.setdefault(record["data"]["origin"], []).append(record)
    return found


def accuracy(of_name: list[dict[str, Any]]) -> str:
    """Percent: the mean ± one standard error over seeds; for a single seed Wilson's interval over the test images."""
    values = [100 * record["test"]["accuracy"] for record in of_name]
    if len(values) > 1:
        return f"{mean(values):.2f} ± {stdev(values) / len(values) ** 0.5:.2f}"
    low, high = of_name[0]["test"]["interval"]
    return f"{values[0]:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def device(record: dict[str, Any]) -> str:
    """The processor's name without its marks: "Intel Xeon, 2 threads"."""
    plain = re.sub(r"\((R|TM|CPU)\)|\bProcessor\b", " ", record["device"])
    return re.sub(r"\b1 threads", "1 thread", re.sub(r"\s+", " ", plain).replace(" ,", ",")).strip()


def duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds else "no training"


def share(value: float) -> str:
    """A relative change: in percent, or as a power of ten where it is no more than rounding."""
    if value > 1e-6:
        return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(RAISED)}" if value else "0"


def reach(name: str, label: str, of_name: list[dict[str, Any]], cost: dict[str, Any]) -> str:
    """A row on what a model reaches; its change is told if it was measured with the weights of one of the records."""
    checkpoints = {record["checkpoint_sha256"] for record in of_name}
    known = cost.get("weights", {}).get("checkpoint_sha256") in checkpoints
    change = share(cost["change_trained"]) if known else "–"
    seeds = f"{len(of_name)}&nbsp;seed{'s' * (len(of_name) > 1)}"
    if epochs := of_name[0]["curve"] and of_name[0]["configuration"]["training"]["epochs"]:
        seeds += f", {epochs}&nbsp;epochs"
    return f"| {label} | {accuracy(of_name)}, {seeds} | {of_name[0]['parameters']:,} | {change} |"


def price(name: str, label: str, of_name: list[dict[str, Any]], cost: dict[str, Any]) -> str:
    """A row on what a model costs."""
    scores = f"{cost['attention_scores']:,}" if cost.get("attention_scores") else "none" if cost else "–"
    speed = f"{cost['images_per_second']:,.0f}" if cost else "–"
    spent = "; ".join(
        dict.fromkeys(
            f"{duration(mean(r['seconds'] for r in of_name if device(r) == each))}"
            + (f", {each}" if of_name[0]["seconds"] else "")
            for each in map(device, of_name)
        )
    )
    return f"| {label} | {scores} | {speed} | {spent} |"


def published(path: Path) -> list[str]:
    """The figures of others as a table, each with its source."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    lines = [
        f"| {row['model']}{', ' + row['group'] if row.get('group') else ''} | {row['accuracy']} "
        f"| [{row['source']}]({row['link']}): {row['note']} |"
        for row in rows
    ]
    return (
        ["| published model | test accuracy (%) | source, and what to mind |", "|---|--:|---|", *lines] if rows else []
    )


def images(rows: list[tuple]) -> str:
    """How many test images the rows of a table rest on; post-hoc methods look at the first ones alone."""
    counts = sorted({record["test"]["count"] for _, _, of_name, _ in rows for record in of_name}, reverse=True)
    return f"{counts[0]:,} test images" + "".join(
        f", the first {count:,} for those that are slow or show several views" for count in counts[1:]
    )


def tables(root: Path = ROOT) -> str:
    """The lines between the marks."""
    results = root / "data" / "results"
    measured = results / "benchmarks" / "throughput.json"
    costs = json.loads(measured.read_text(encoding="utf-8")) if measured.exists() else {"models": {}}
    reached, prices, priced = [], [], set()
    for section, names in SECTIONS.items():
        # scores on different copies of the images are not put side by side: each has a table of its own
        by_origin: dict[str, list[tuple]] = {}
        for name, label in names.items():
            for origin, of_name in records(results, name).items():
                by_origin.setdefault(origin, []).append((name, label, of_name, costs["models"].get(name, {})))
        for origin, rows in sorted(by_origin.items()):
            reached += [
                f"**{section}** ({origin}; {images(rows)})",
                "",
                f"| model | test accuracy (%) | param{SOFT_HYPHEN}eters | change in a turn |",
                "|---|--:|--:|--:|",
                *(reach(*row) for row in rows),
                "",
            ]
            for name, label, *rest in rows:  # on a tenth of the images the same model costs what it costs on all
                whole = name.removesuffix("-tenth")
                if whole not in priced or EXPERIMENTS[whole].model != EXPERIMENTS[name].model:
                    small = ", a tenth of the images" if name.endswith("-tenth") else ""
                    prices.append(price(name, label + small, *rest))
            priced |= {name for name, *_ in rows}
    if not reached:
        return "No headline model has a record yet.\n"
    lines = [
        "## In numbers",
        "",
        *paragraph(
            "Rotated MNIST, read from the committed records; nothing was chosen on the test images. "
            "Accuracy: the mean over seeds ± one standard "
            "error, or for a single seed Wilson's 95 % interval over the test images. Change: that of a logit, "
            "at most, over the largest logit, when 32 digits make quarter turns; in float64, with the trained "
            "weights. Rows that differ in their epochs were trained on different terms. The hybrid and the G-CNN "
            "also train on the validation images, a fifth more; the others choose their epoch by them. Seeds of a post-hoc row share one base "
            "model, and differ in the training of the last layer alone."
        ),
        *reached,
        *paragraph(
            f"**What they cost.** Attention scores of one image. Images per second, forward, all models in "
            f"alternation in one process ({device(costs) if costs['models'] else 'not measured yet'}). Training of one "
            f"seed, on the machine named; times on different machines are no comparison."
        ),
        "| model | attention scores | images per second | training |",
        "|---|--:|--:|---|",
        *prices,
        "",
    ]
    if others := published(root / "data" / "published.json"):
        lines += [
            *paragraph(
                "**What others report**, on the official files of rotated MNIST. Other images, other "
                "protocols: not to be put beside the figures above."
            ),
            *others,
            "",
        ]
    return "\n".join(lines)


def paragraph(text: str) -> list[str]:
    return [*textwrap.wrap(text, 118, break_on_hyphens=False), ""]


def updated(readme: str, lines: str) -> str:
    """The text with new lines between its marks."""
    begin, end = readme.index(MARKS[0]) + len(MARKS[0]), readme.index(MARKS[1])
    return readme[:begin] + lines + readme[end:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when README.md is out of date")
    options = parser.parse_args()
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = updated(before, tables())
    if options.check:
        if before != after:
            print("README.md is out of date: run python book/tools/headline.py", file=sys.stderr)
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
