"""Draws the opening figure from the committed checkpoints: book/_static/turning.html and turning.png.

python book/tools/opening.py

The introduction includes the first, a snippet with a slider; README.md shows the second.
"""

from pathlib import Path

import numpy as np
from shown import TURNING

from e2vit.data import as_float, load
from e2vit.experiments import run, seeds_present
from e2vit_book.inside import measure as inspection
from e2vit_book.inside.turning import turning_figure, turning_html

FOLDER = Path(__file__).resolve().parents[1] / "_static"
LABELS = (6, 4, 7, 2)
DEGREES = list(range(0, 360, 5))


def main() -> None:
    models = {}
    for name, experiments in TURNING.items():
        for experiment in [each for each in experiments if seeds_present(each)][:1]:
            models[name] = run(experiment).model
    test = load("mnist").test[:2000]
    digits = [as_float(test.images[test.labels == label])[:200] for label in LABELS]
    first = inspection.most_ambiguous(next(iter(models.values())), digits[0], label=6, other=9)
    digits = [digits[0][first], *(images[0] for images in digits[1:])]
    frames = np.stack([inspection.turned(digit, DEGREES)[:, 0].numpy() for digit in digits])
    said = {
        name: np.stack([inspection.probabilities(model, digit, DEGREES).numpy() for digit in digits])
        for name, model in models.items()
    }
    (FOLDER / "turning.html").write_text(turning_html(frames, DEGREES, LABELS, said) + "\n", encoding="utf-8")
    figure = turning_figure(frames[0], DEGREES, LABELS[0], {name: p[0] for name, p in said.items()})
    figure.savefig(FOLDER / "turning.png", dpi=160, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
