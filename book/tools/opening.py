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
LABELS = (4, 2, 5, 7)  # none of them is another digit when it stands on its head
CANDIDATES = 100  # digits of each class among which one is looked for
DEGREES = list(range(0, 360, 5))


def main() -> None:
    models = {}
    for name, experiments in TURNING.items():
        for experiment in [each for each in experiments if seeds_present(each)][:1]:
            models[name] = run(experiment).model
    test = load("mnist").test
    digits = []
    for label in LABELS:
        images = as_float(test.images[test.labels == label][:CANDIDATES])
        judges = {name: models[name] for name in ("ViT, upright", "ViT, augmented", "hybrid")}
        digits.append(images[telling(said_of(judges, images), label, augmented=label == LABELS[-1])])
    frames = np.stack([inspection.turned(digit, DEGREES)[:, 0].numpy() for digit in digits])
    said = said_of(models, digits)
    start = first_difference(said, LABELS[0])
    html = turning_html(frames, DEGREES, LABELS, said, start=start, autoplay=True)
    (FOLDER / "turning.html").write_text(html + "\n", encoding="utf-8")
    figure = turning_figure(frames[0], DEGREES, LABELS[0], {name: p[0] for name, p in said.items()})
    figure.savefig(FOLDER / "turning.png", dpi=160, facecolor="white", metadata={"Software": None})


def said_of(models: dict, images) -> dict[str, np.ndarray]:
    """Return name → probabilities (digit, angle, class)."""
    return {
        name: np.stack([inspection.probabilities(model, image, DEGREES).numpy() for image in images])
        for name, model in models.items()
    }


def telling(answers: dict[str, np.ndarray], label: int, augmented: bool) -> int:
    """Return the digit that the hybrid recognizes at most angles and the other at fewest.

    answers: name → (digit, angle, class). augmented: compare with the ViT trained on turned digits.
    """
    right = {name: (p.argmax(-1) == label).mean(1) for name, p in answers.items()}
    other = right["ViT, augmented" if augmented else "ViT, upright"]
    return int((right["hybrid"] - other + (right["hybrid"] == 1)).argmax())


def first_difference(said: dict[str, np.ndarray], label: int) -> int:
    """Return the first angle at which the upright ViT is wrong and every other model right, on the first digit."""
    right = {name: p[0].argmax(-1) == label for name, p in said.items()}
    others = np.logical_and.reduce([answers for name, answers in right.items() if name != "ViT, upright"])
    return int((others & ~right["ViT, upright"]).argmax())


if __name__ == "__main__":
    main()
