# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A novel hybrid
#
# **Can one network relate distant parts as attention does, at a small part of the cost of group attention, and still turn
# with its input?**
#
# Yes. Group convolutions reduce the image to a small map of tokens, and each token has a place *and* a pose, one of the
# four quarter turns. A transformer then compares places as each pose sees them. The network is equivariant to quarter
# turns in every layer, up to rounding. Between quarter turns it has to learn from data, as any network does.

# %% tags=["hide-input"]
import copy

import torch
from e2vit.data import as_float, embedded, load
from e2vit.experiments import default_mode, find, records, run
from e2vit.groups import cyclic, dihedral
from e2vit.layers import LiftingConv
from e2vit.layers.filters import turned_basis
from e2vit.metrics import predict
from e2vit.models import HybridViT, HybridViTConfig
from e2vit.testing import randomized
from e2vit_book import results
from e2vit_book.drawing import drawing
from e2vit_book.exercise import Exercise
from e2vit_book.hybrid import figures, measure
from e2vit_book.hybrid.turning import (
    nearest_basis,
    turning_error,
    with_nearest_filters,
)
from einops import einsum, rearrange
from IPython.display import Markdown, display

# %% tags=["parameters", "hide-input"]
mode = default_mode()  # "quick" | "report" | "train"

# %% tags=["hide-input"]
final = records.by_experiment(
    results.found(mode, ("rotmnist/hybrid-c4", "rotmnist/gcnn-p4cnn"), "rotmnist/")
)
attention = records.by_experiment(results.found(mode, prefix="attention/"))
whole = {
    experiment.network: records.summarize(of_experiment)
    for experiment, of_experiment in final.items()
    if experiment.fraction == 1 and not experiment.name.endswith("unaugmented")
}
speeds = results.benchmark("hybrid")["gevit"]
display(
    Markdown(
        "On rotated MNIST, test accuracy with 95 % intervals: hybrid "
        f"{whole['hybrid-c4']}"
        + (f", plain ViT {whole['vit']}" if "vit" in whole else "")
        + (f", group convolutions {whole['gcnn-p4cnn']}")
        + ". On one processor core the hybrid is "
        f"{speeds['forward']['ratio']:.0f} times as fast in classification and "
        f"{speeds['training']['ratio']:.0f} times as fast in training as GE-ViT "
        "with our compiled kernel."
    )
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-results", "caption": "Test accuracy on rotated MNIST (rebuilt from MNIST) of the networks trained on all its training images, with 95 % intervals: over seeds where there are three, over the test images otherwise. Hybrid and G-CNN were trained on training and validation images together, the ViT on the training images, so that the validation images could choose its epoch. Training images are turned at random where the name does not say otherwise."}, "image": {"alt": "A dot plot with one row for each network; the hybrid over C4 is on top."}}
figures.results(
    {
        measure.title(experiment): records.summarize(of_experiment)
        for experiment, of_experiment in final.items()
        if experiment.fraction == 1
    }
)
# %% [markdown]
# ## From image to logits

# %% tags=["hide-input"]
drawing(
    "hybrid",
    "The hybrid. Colors are poses; every pose of a map is computed with the same "
    "filters, turned. Lines in the blocks: attention relates places within a pose, and "
    "linear layers relate the poses.",
)

# %% [markdown]
# 1. **Stem.** A *lifting convolution* applies every filter in four poses. Group convolutions and $2 \times 2$ pools
#    follow: 28 → 14 → 7 pixels. The windows of the pools tile the map without a remainder (the *size rule* of chapter
#    2), so the stem commutes with quarter turns exactly.
# 2. **Tokens.** The map has $7 \times 7$ places and 4 poses. Each pair is a token, a vector of 32 features.
# 3. **Blocks.** Attention relates the places; linear layers relate the poses.
# 4. **Readout.** Mean over places, then mean and maximum over poses. The pose disappears only here.
#
# The token at place $x$ in pose $g$ attends to the tokens $(y, g)$ of the same pose. The score is
#
# $$s\big((x, g), (y, g)\big) = \frac{\langle q(x, g), k(y, g)\rangle}{\sqrt d} + b\big(g^{-1}(y - x)\big).$$
#
# The bias $b$ reads the offset $y - x$ *as seen from the pose* $g$. A turn $r$ of the image moves the tokens to
# $(rx, rg)$ and $(ry, rg)$, and $(rg)^{-1}(ry - rx) = g^{-1}(y - x)$, so no score changes.
#
# The linear layers that mix the poses must commute with the turn as well. They store one matrix for each *relative*
# pose: the output in pose $g$ is $\sum_m W_{g^{-1}m}\, z_m$, with $z_m$ the features in pose $m$. This is a
# convolution over the group.
#
# Here is the whole attention layer, written out:

# %%
config = HybridViTConfig(
    group=cyclic(4),
    stem=(8, 24, 32),
    width=32,
    heads=2,
    depth=2,
    attention="within_pose",
)
hybrid = randomized(HybridViT(config))  # float64, every parameter drawn at random
layer = hybrid.blocks[0].attention
images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
with torch.no_grad():
    z = hybrid.tokens(images)  # (batch, pose, token, feature)

    mix = layer.qkv.weight[layer.qkv.relative]  # W[g⁻¹m], for all poses g and m
    mixed = einsum(mix, z, "g m d out, batch m token d -> batch g token out")
    q, k, v = rearrange(
        mixed + layer.qkv.bias,
        "batch g token (part head d) -> part batch g head token d",
        part=3,
        head=config.heads,
    )
    scores = q @ k.mT / q.shape[-1] ** 0.5 + layer.bias()  # b(g⁻¹(y − x))
    attended = scores.softmax(-1) @ v
    ours = layer.out(
        rearrange(attended, "batch g head token d -> batch g token (head d)")
    )
    assert torch.allclose(ours, layer(z))  # the layer of the library does the same

# %% [markdown]
# The index $g^{-1}m$ is read from the product table of the group. For $C_4$, with $g$ as rows and $m$ as columns:

# %%
layer.qkv.relative

# %% [markdown]
# ## What it saves
#
# Attention computes one *score* for each query, key and head. GE-ViT's lifting layer looks at a window of
# $9 \times 9$ pixels around each of $28 \times 28$ pixels, with 9 heads and 4 poses. Its group layers also have poses
# of query and key: the first one has 16 times as many scores as the lifting layer.

# %%
heads, poses, window, pixels, places = 9, 4, 9 * 9, 28 * 28, 7 * 7
lifting = window * pixels * heads * poses
patches = places * places * heads * poses  # 4×4 patches: every patch sees all 49
scores = {
    "GE-ViT, lifting layer": lifting,
    "GE-ViT, first group layer": lifting * poses * poses,
    "lifted patches, one layer": patches,
    "hybrid, poses joint": config.depth * config.heads * (poses * places) ** 2,
    "hybrid, within each pose": config.depth * config.heads * poses * places**2,
}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-scores", "caption": "Attention scores for one digit, log scale. The two bars of the hybrid count the whole network, the others a single layer. All poses together need four times the scores of attention within each pose, which our runs use. Computed in the cell above."}, "image": {"alt": "Five horizontal bars on a logarithmic scale. The first group layer of GE-ViT is the longest, the hybrid within each pose the shortest."}}
figures.counts(scores)
# %% tags=["hide-input"]
timed = {
    experiment.network: measure.seconds_per_image(of_experiment)
    for experiment, of_experiment in (final | attention).items()
    if experiment.network in ("patches-c4", "pooled-patches", "pooled-gcnn", "gevit")
}
sentence = f"Patches alone save a factor of {lifting / patches:.1f} in scores. "
if {"patches-c4", "gevit"} <= timed.keys():
    sentence += (
        "In seconds of training for an image, by the records and on the machines that made them, GE-ViT takes "
        f"{timed['gevit'] / timed['patches-c4']:.1f} times as long as lifted patches with attention over all "
        "places and poses."
    )
else:
    sentence += (
        "Whether they save as much time has not been measured yet: there is no finished run of such a network. "
        "For the hybrid, the opening of this chapter gives the ratio in seconds."
    )
pooled = [
    f"{name.removeprefix('pooled-')} {whole[name]}"
    for name in whole
    if "pooled" in name
]
if pooled:
    sentence += f" The pooled hybrids reach: {'; '.join(pooled)}."
display(Markdown(sentence))

# %% [markdown]
# Patches may lose detail: a single linear map reads each square of $4 \times 4$ pixels. Convolutions with pools between
# them overlap; how much that is worth was not measured against patches.
#
# **Predecessors.** Attention over group elements comes from
# [GSA-Nets](https://arxiv.org/abs/2010.00977), and [GE-ViT](https://arxiv.org/abs/2306.06722) revised their positional
# encoding; both attend between pixels. The draft of this book, by Bant, Bot, Eppink, Feng and Six Dijkstra, puts group convolutions in front of
# GE-ViT and *averages the poses* in between, which is equivariant but discards how the parts were turned.
# We keep the poses.
# [REViT](https://arxiv.org/abs/2606.25318) is the nearest relative: one lifting convolution, whose default for
# 28 pixels breaks the size rule, then attention over tokens with a group axis; ours has several convolutions
# and attends within each pose. [Octic
# transformers](https://arxiv.org/abs/2505.15441) store the poses of $D_4$ in other coordinates, its irreducible
# representations, in which linear layers are cheaper.
#
# ## Exact, stage by stage
#
# For every stage $f$ of a trained hybrid we compare $f(r\,x)$ with $r\,f(x)$, for all quarter turns $r$, in double precision. The
# control has random weights, no bias $b$, and a vector for each absolute place that is added to the tokens.

# %%
finished = results.first(("rotmnist/hybrid-c4", "ablation/hybrid-c4"), mode)
trained = finished or run("rotmnist/hybrid-c4", "quick")
rebuilt = "embedded" not in trained.record["data"]["origin"]
digits = load("rotmnist") if rebuilt else embedded("rotmnist")
model = copy.deepcopy(trained.model).double()
sample = as_float(digits.test.images[:8]).double()
torch.manual_seed(0)
control = HybridViTConfig(**{**vars(model.config), "position": "absolute"})
errors = {
    "hybrid": measure.stage_errors(model, sample, cyclic(4), [1, 2, 3]),
    "with absolute positions": measure.stage_errors(
        HybridViT(control).double().eval(), sample, cyclic(4), [1, 2, 3]
    ),
}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-exactness", "caption": "Largest equivariance error after every stage, over all quarter turns and eight test digits of rotated MNIST, in double precision. Errors below 1e-16 are drawn there. Absolute positions break the symmetry where they enter, at the tokens; those weights are random."}, "image": {"alt": "Two lines over the stages of the network. The hybrid stays near the rounding error throughout. The network with absolute positions leaves it at the tokens."}}
figures.exactness(errors)
# %% tags=["hide-input"]
mirrors = HybridViT(HybridViTConfig(**{**vars(config), "group": dihedral(4)}))
worst = max(
    measure.stage_errors(
        mirrors.double().eval(), sample, dihedral(4), range(1, 8)
    ).values()
)
weights = (
    "trained weights"
    if finished and mode != "quick"
    else "weights after a moment of training"
)
display(
    Markdown(
        f"The largest error of the hybrid is {max(errors['hybrid'].values()):.0e} ({weights}). "
        "With `group=dihedral(4)`, the same code is equivariant to mirrors too: over the seven elements other than "
        f"the identity and all stages, the error is at most {worst:.0e} (random weights)."
    )
)

# %% [markdown]
# ## What it buys

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-cost", "caption": "Test error against computation on rotated MNIST (rebuilt from MNIST), log scales, 95 % intervals. Low and left is good. The cost is counted in multiplications for one image, so it does not depend on a machine. Filled marks: trained on randomly turned images; open marks: on the images as they are. Most have one or two seeds. Group attention is slow: it had 20 epochs of all images, and few epochs, far from convergence, of a tenth."}, "image": {"alt": "Scatter plots of test error against millions of multiplications, one panel for all training images and one for a tenth. The hybrid lies lowest in both; group attention lies far to the right."}}
figures.cost(measure.points(final | attention))
# %% tags=["hide-input"]
upright = {
    measure.family(experiment): records.summarize(of_experiment)
    for experiment, of_experiment in records.by_experiment(
        results.found(mode, ("rotmnist_upright/hybrid-c4",), "rotmnist_upright/")
    ).items()
}
sentence = "What if training never shows a turned digit? Trained on upright digits alone and tested on turned ones, "
sentence += ", ".join(
    f"the {name} reaches {summary}" for name, summary in upright.items()
)
display(
    Markdown(
        sentence
        + ". Quarter turns cost the hybrid no accuracy, because its answer is the same for all four; the angles between "
        "them do."
    )
)

# %% [markdown]
# ## What each part does
#
# Each ablation changes one part of the hybrid, two of them more than one; all are trained alike. Two things vary by
# chance: the test images and the seed. Where the interval contains zero, no difference is shown. A true difference
# outside the gray band would have been shown in at least four cases out of five.

# %% tags=["hide-input"]
parts = {
    "plain-cnn": "one pose only",
    "poses-pooled": "poses averaged before the blocks",
    "stem-alone": "no transformer blocks",
    "gcnn": "convolutions for the blocks",
    "no-position": "attention without positions",
    "absolute": "absolute positions",
    "rotary": "rotary positions",
    "joint": "attention across poses",
    "readout-mean": "mean over poses only",
}
ablations = {
    experiment.network: of_experiment
    for experiment, of_experiment in records.by_experiment(
        results.found(mode, ("ablation/hybrid-c4", "ablation/stem-alone"), "ablation/")
    ).items()
}
reference = ablations["hybrid-c4"]
spread, freedom = records.seed_spread((final | attention).values())
gaps = {
    words: records.difference(reference, ablations[name], (spread, freedom))
    for name, words in parts.items()
    if name in ablations
}
smallest = max(each.detectable for each in gaps.values())

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-ablations", "caption": "Test accuracy of each ablation minus that of the hybrid, in points, with 95 % intervals; rotated MNIST rebuilt from MNIST. With fewer than three seeds they come from the test images and the spread of seeds seen in the final runs. Open dots: the interval holds zero, so no difference is shown. Two ablations change more than one thing: attention across poses has no layers that mix the poses, and the network with one pose has wider layers, so that it has about as many parameters."}, "image": {"alt": "A dot plot with one row for each ablation. One pose only and no transformer blocks lie far left of zero; convolutions for the blocks, absolute and rotary positions lie within the gray band around zero."}}
figures.differences(gaps, smallest)
# %% tags=["hide-input"]
epochs = find("ablation/hybrid-c4").training.epochs
seeds = {len(of_experiment) for of_experiment in ablations.values()}
counts = "one seed" if seeds == {1} else f"{min(seeds)} to {max(seeds)} seeds"
said = {
    shown: ", ".join(
        f"{name} ({100 * gap.mean:+.2f})"
        for name, gap in gaps.items()
        if gap.shown == shown
    )
    for shown in (True, False)
}
reached = records.summarize(reference)
display(
    Markdown(
        f"After {epochs} epochs the hybrid classifies {reached} of {reached.images:,} test images correctly "
        f"({counts} for each network). Differences below {100 * smallest:.2f} points could not be shown reliably"
        + (
            f"; seeds differ by a standard deviation of {100 * spread:.2f} points, an estimate with {freedom} degrees of freedom. "
            if spread
            else "; the spread between seeds is not known here. "
        )
        + f"Shown: {said[True] or 'nothing'}. Not shown: {said[False] or 'nothing'}."
    )
)

# %% [markdown]
# With fewer than three seeds, another seed may change the order of close results.
#
# - **Poses matter most.** The network with one pose falls behind by the largest amount. Averaging the poses before the
#   transformer and lifting again loses about a third as much.
# - **The blocks help; a need for attention in them is not shown.** Without them accuracy drops. With group convolutions
#   in their place no difference is shown.
# - **Positions** matter little on seven by seven places. Absolute positions show no loss of accuracy here. What they
#   lose is the guarantee.
# - **The maximum over poses** belongs in the readout: the mean alone loses accuracy.
#
# The tables with all ablations, among them other groups and depths, are on the page *Results*.
#
# ## Deeper: angles between the pixels
#
# A quarter turn moves pixels onto pixels. A turn by 45° does not. For $C_8$ a filter must be turned by 45° and put back on
# the grid. Copying the nearest pixel distorts the filter. Instead we build filters from rings with a few waves around
# them:
#
# $$\psi(r, \theta) = e^{-(r - \rho)^2 / 2\sigma^2} \cos(f\theta) \quad\text{or}\quad
#   e^{-(r - \rho)^2 / 2\sigma^2} \sin(f\theta), \qquad f \le 1.5\,\rho,$$
#
# with $\rho$, $\sigma$ the radius and width of the ring in pixels, $f$ waves around it. To turn it, replace
# $\theta$ by $\theta - 45°$. It is then fitted to the pixels by least squares, so that it responds to smooth images
# nearly as the continuous filter would.

# %%
group = cyclic(8)
basis = turned_basis(group, 5)  # (pose, filter, pixel)
mixture = torch.randn(basis.shape[1], generator=torch.Generator().manual_seed(2))
fitted = einsum(mixture, basis, "filter, pose filter pixel -> pose pixel")
nearest = nearest_basis(group, fitted[:1])[:, 0]

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-filters", "caption": "One random filter of 5×5 pixels in the eight poses of C8. Above: turned as a formula and fitted to the grid. Below: turned by copying the nearest pixel."}, "image": {"alt": "Two rows of eight small filters. In the upper row the pattern turns smoothly. In the lower row every second filter has jumps."}}
figures.turned_filters(
    {
        "fitted": fitted.unflatten(-1, (5, 5)).numpy(),
        "nearest": nearest.unflatten(-1, (5, 5)).numpy(),
    },
    [45 * g for g in range(8)],
)
# %% [markdown]
# To measure the benefit without any interpolation, we use images that are formulas too: sums of smooth bumps, sampled
# after an exact turn. We compare the features at the center of the map, which stays in place.

# %% tags=["hide-input"]
scales = [1.5, 2.0, 3.0, 4.0]
torch.manual_seed(0)
lift = LiftingConv(group, 1, 6, 5, 2).double()
narrow = HybridViTConfig(group=group, stem=(4, 6, 8), width=8, heads=2)
stem = HybridViT(narrow).stem.double()
networks = {"one layer": (lift, 27), "whole stem": (stem, 28)}
turning = {}
for part, (network, size) in networks.items():
    control = with_nearest_filters(network, group)
    for how, each in (("fitted", network), ("nearest", control)):
        turning[f"{part}, {how}"] = [
            turning_error(each, group, 1, size, scale) for scale in scales
        ]
ratio = turning["whole stem, fitted"][1] / turning["whole stem, nearest"][1]

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-45-degrees", "caption": "Relative error of the features under a turn by 45°, for one lifting convolution over C8 and for a whole stem with random weights. Both ways to turn start from the same upright filters."}, "image": {"alt": "Three falling lines and a flat one. The fitted filters lie well below the nearest-pixel filters, for one layer and for the stem."}}
figures.turning(scales, turning)
# %% tags=["hide-input"]
display(
    Markdown(
        f"For bumps of 2 pixels, the whole stem with fitted filters errs {ratio:.2f} times as much as with nearest-pixel "
        f"filters; under a quarter turn its error is {turning_error(stem, group, 2, 28):.0e}. "
        "The remaining error has a likely cause in the pools: a window of 2 × 2 pixels is a different set after 45°."
    )
)

# %% [markdown]
# So networks over $C_4$ and $D_4$ are exact; those over $C_8$ (and, untested here, $C_{16}$) only at quarter turns.
#
# ## Where it fails

# %% tags=["hide-input"]
count = 200 if mode == "quick" else 5_000
logits = predict(trained.model, digits.test.images[:count])
labels = digits.test.labels[:count]
probability, predicted = logits.softmax(-1).max(-1)
wrong = (predicted != labels).nonzero()[:, 0]
both = torch.stack([labels[wrong], predicted[wrong]])
six_nine = int(((both == 6) | (both == 9)).all(0).sum())
worst_first = wrong[probability[wrong].argsort(descending=True)][:12]
display(
    Markdown(
        f"Of the first {count:,} test digits {len(wrong)} are misclassified; {six_nine} of these mistakes take a 6 for "
        "a 9 or a 9 for a 6."
    )
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-mistakes", "caption": "Misclassified test digits of rotated MNIST, the most confident mistakes first. Above each: label, prediction and the confidence of the network."}, "image": {"alt": "A grid of handwritten digits, each with its label, the wrong answer and the confidence above."}}
figures.mistakes(
    as_float(digits.test.images[worst_first, 0]).numpy(),
    labels[worst_first].numpy(),
    predicted[worst_first].numpy(),
    probability[worst_first].numpy(),
)
# %% [markdown]
# A 6 turned by 180° can look just like a 9. Where it does, a model that is invariant to half turns must give both the same answer,
# and no architecture can mend that. The count above suggests that most sixes and nines still differ.
#
# ## What to remember
#
# - Keep the pose until the readout. Averaging it earlier is equivariant, but discards how the parts were turned.
# - Let each pose read offsets in its own frame. Then any function of them may enter the score.
# - Obey the size rule. Then equivariance to quarter turns holds up to rounding.
#
# ## Deeper: three exercises
#
# Each cell fails until the dots are replaced by an answer that passes its check. Solutions follow.
#
# **1.** How many scores does one layer of *joint* attention compute, with 2 heads, $7 \times 7$ places and the 8 poses of $D_4$?

# %%
exercise1 = Exercise(lambda answer: answer == 2 * (8 * 7 * 7) ** 2)
exercise1(...)

# %% [markdown]
# **2.** For $C_4$ the table `layer.qkv.relative` needs no group theory. Write it as a tensor of whole numbers, from
# `g = torch.arange(4)[:, None]` and `m = torch.arange(4)`.

# %%
exercise2 = Exercise(lambda answer: torch.equal(answer, layer.qkv.relative))
exercise2(...)

# %% [markdown]
# **3.** Mean and maximum over poses ignore the order of the poses. Give a readout, a function from `(batch, pose, feature)`
# to `(batch, feature)`, that stays invariant when the poses move along by one, but changes when poses 1 and 2 are
# exchanged.

# %%
x = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
exercise3 = Exercise(
    lambda readout: (
        torch.allclose(readout(x.roll(1, 1)), readout(x), atol=1e-5)
        and not torch.allclose(readout(x[:, [0, 2, 1, 3]]), readout(x), atol=1e-2)
    )
)
exercise3(...)

# %% [markdown]
# ### Deeper: solutions
#
# **1.** There are $8 \cdot 49$ tokens, and each attends to all of them, once for each head.
#
# **2.** The inverse of $g$ quarter turns is $-g$ quarter turns, and the product adds them.
#
# **3.** Multiply each pose by the next one around the circle, and average. A move by one only reorders the products.

# %% tags=["solution"]
exercise1(2 * (8 * 49) ** 2)
exercise2((torch.arange(4) - torch.arange(4)[:, None]) % 4)
exercise3(lambda x: (x * x.roll(1, 1)).mean(1))
