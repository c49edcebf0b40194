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
# # Inside the layers
#
# **What does an equivariant network do, inside, that an ordinary one does not?**
#
# When the digit makes a quarter turn, attention and feature maps of the equivariant network turn in the plane and their
# poses move on by one. The answer therefore stays the same, up to rounding. An ordinary network that was trained on
# turned digits gives nearly the same answer, but its features do not turn with it.

# %% tags=["hide-input"]
import numpy as np
import torch
from e2vit.actions import act
from e2vit.capture import capture
from e2vit.data import as_float, embedded, load
from e2vit.experiments import default_mode, run, seeds_present
from e2vit.groups import cayley_index, gevit_index, gsa_index
from e2vit.models import GroupAttentionNet, GroupAttentionNetConfig
from e2vit_book.exercise import Exercise
from e2vit_book.inside import figures, measure
from e2vit_book.inside.attention_maps import relevance, rollout
from e2vit_book.inside.turning import turning_figure, turning_html
from e2vit_book.player import compact_figures, figure_uri, slideshow
from e2vit_book.tables import table
from IPython.display import HTML, Markdown, display

# %% tags=["parameters", "hide-input"]
mode = default_mode()  # "quick" | "report" | "train"

# %% [markdown]
# We compare three networks. The **ViT, upright** is a vision transformer that has seen upright digits only. The **ViT** was trained on
# digits at all angles. The **hybrid** of the previous chapter is equivariant to the four quarter turns, $C_4$.
# Where only answers are compared, **GE-ViT** joins (chapter 3).

# %% tags=["hide-input"]
compact_figures()
wanted = {
    "ViT, upright": ("mnist/vit", "rotmnist_upright/vit"),
    "ViT": ("rotmnist/vit",),
    "hybrid": ("rotmnist/hybrid-c4", "ablation/hybrid-c4", "digits/hybrid-c4"),
}
if mode == "report" and seeds_present("attention/gevit"):
    wanted["GE-ViT"] = ("attention/gevit",)
runs, rows = {}, []
for label, options in wanted.items():
    there = [name for name in options if mode != "report" or seeds_present(name)]
    how = mode if there else "quick"
    runs[label] = run((there or options)[0], how)
    record = runs[label].record
    rows.append(
        {
            "network": label,
            "trained on": f"{record['data']['name']}, {record['data']['origin']}",
            "weights": "a moment of training" if how == "quick" else "of the record",
            "parameters": record["parameters"],
            "test accuracy (%)": 100 * record["test"]["accuracy"],
        }
    )
models = {label: result.model.eval() for label, result in runs.items()}
vit, hybrid = models["ViT"], models["hybrid"]
group = hybrid.config.group
table(rows)

# %% [markdown]
# The accuracies are on the test set of each network's own data. The digits of this chapter come from the upright MNIST
# test split; networks trained on turned digits may have met some of them. So nothing below measures accuracy: we look at
# behavior. Our six is the one that the ViT trained upright most clearly calls a nine after half a turn.

# %% tags=["hide-input"]
splits = embedded("mnist") if mode == "quick" else load("mnist")
test = splits.test[:2000]
sixes = as_float(test.images[test.labels == 6])[:200]
labels = [6, 4, 7, 2]
digits = [
    sixes[measure.most_ambiguous(models["ViT, upright"], sixes, label=6, other=9)]
] + [as_float(test.images[test.labels == c][0]) for c in labels[1:]]
degrees = list(range(0, 360, 30 if mode == "quick" else 5))
frames = np.stack([measure.turned(x, degrees)[:, 0].numpy() for x in digits])
said = {
    label: np.stack([measure.probabilities(model, x, degrees).numpy() for x in digits])
    for label, model in models.items()
}

# %% [markdown]
# ## A digit turns
#
# A network $f$ is *invariant* to a turn $g$ if $f(g\,x) = f(x)$. Drag the slider, or press play. Blue is the true class, orange
# any other. The band below the bars shows the answer at every angle.

# %% tags=["hide-input"]
display(HTML(turning_html(frames, degrees, labels, said)))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-turning", "caption": "The 6 of the slider, turned through a full circle. The height of an area is the probability of the predicted class, which is written into it; dark means right. To a network that has seen upright digits only, the 6 upside down is a 9. MNIST test digit."}, "image": {"alt": "A turning six along the top. Below, the answer of each network against the angle. The upright ViT is right near zero degrees alone and names a nine at half a turn. The hybrid repeats itself every quarter turn."}}
turning_figure(
    frames[0], degrees, labels[0], {label: p[0] for label, p in said.items()}
)
# %% tags=["hide-input"]
quarters = [k for k, angle in enumerate(degrees) if angle % 90 == 0]
change = {
    label: float(np.abs(p[:, quarters] - p[:, :1]).max()) for label, p in said.items()
}
display(
    Markdown(
        "In the figure the answers of the hybrid and of the ViT look equally steady. Numbers tell them apart. Under "
        "quarter turns of the four digits, probabilities change by at most "
        + ", ".join(
            f"{each:.0e} ({label})" if each < 1e-2 else f"{each:.2f} ({label})"
            for label, each in change.items()
        )
        + "."
    )
)

# %% [markdown]
# Augmentation makes a network *nearly* invariant, by example. Equivariance makes it *exactly* invariant, by construction, but only to
# the turns in its group. Between the quarter turns both have to learn.
#
# ## Attention
#
# Attention mixes tokens with weights $A$: row by row, each token takes a weighted mean of all tokens. The input of
# a layer is added to its output. *Attention rollout* ([Abnar and Zuidema, 2020](https://arxiv.org/abs/2005.00928))
# estimates which tokens of the input reach the output by a product over layers, with input and attention at one half
# each. The first layer is the factor on the right:
#
# $$ R = B_L \cdots B_2\, B_1, \qquad B_\ell = \tfrac12 I + \tfrac12 \bar A_\ell, $$
#
# with $\bar A_\ell$ the mean over the heads of layer $\ell$. `capture` records the attention of any model while its block is open:

# %%
turns = [0, 45, 90, 180]
six = measure.turned(digits[0], turns)
relevances = {}
for label in ("ViT", "hybrid"):
    with torch.no_grad(), capture(models[label]) as seen:
        models[label](six)
    attention = list(seen.attention.values())  # (image, …, head, query, key), by layer
    relevances[label] = relevance(rollout(attention))  # (image, row, column)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rollout", "caption": "Attention rollout from the output to the input, for a turning 6. Bright: much of the output comes from there; each map has its own scale. The hybrid's maps at 90° and 180° are the first map, turned. The ViT's maps follow the digit only roughly. In the hybrid the rollout starts at the tokens, behind the convolutions. MNIST test digit."}, "image": {"alt": "Three rows of four pictures: the six at four angles, and for each network a coarse map of seven by seven cells."}}
figures.relevance_maps(
    six[:, 0].numpy(),
    {label: maps.numpy() for label, maps in relevances.items()},
    [f"{angle}°" for angle in turns],
)
# %% tags=["hide-input"]
off = {
    label: float((maps[2].rot90(-1) - maps[0]).abs().max() / maps[0].max())
    for label, maps in relevances.items()
}
display(
    Markdown(
        "Turned back by 90°, the map differs from the first one by "
        + " and ".join(
            f"{each:.0e} ({label})" if each < 1e-3 else f"{100 * each:.0f} % ({label})"
            for label, each in off.items()
        )
        + " of the largest value. The same in motion:"
    )
)

# %% tags=["hide-input"]
coarse = list(range(0, 360, 90 if mode == "quick" else 30))
moving = measure.turned(digits[0], coarse)
flow = {}
for label in ("ViT", "hybrid"):
    with torch.no_grad(), capture(models[label]) as seen:
        models[label](moving)
    flow[label] = relevance(rollout(list(seen.attention.values()))).numpy()
pictures = [
    figure_uri(
        figures.relevance_row(
            moving[k, 0].numpy(),
            {label: maps[k] for label, maps in flow.items()},
            f"{angle}°",
        )
    )
    for k, angle in enumerate(coarse)
]
display(
    HTML(
        slideshow(
            pictures,
            [f"{angle}°" for angle in coarse],
            [
                f"The six turned by {angle} degrees, and the attention rollout of both networks."
                for angle in coarse
            ],
            "Attention rollout of a turning six",
        )
    )
)

# %% [markdown]
# **Head by head.** The token in the middle stays in place when the image turns, so we can follow what it attends to. In the ViT
# every head has a map. In the hybrid every head has one map for each pose.

# %%
straight = measure.turned(digits[0], [0, 90])
side = hybrid.config.side  # 7 tokens, in both networks
middle = side * (side // 2) + side // 2
last = {
    label: f"blocks.{models[label].config.depth - 1}"
    for label in models
    if label != "GE-ViT"
}
with torch.no_grad(), capture(vit) as seen:
    vit(straight)
of_vit = seen.attention[last["ViT"] + ".attention"][:, :4, middle].unflatten(
    -1, (side, side)
)
with torch.no_grad(), capture(hybrid) as seen:
    hybrid(straight)
of_hybrid = seen.attention[last["hybrid"] + ".attention"][:, :, 0, middle].unflatten(
    -1, (side, side)
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-heads-vit", "caption": "Attention of the middle token (framed) in the last layer of the ViT, for a 6 and the 6 turned by 90°; four heads, each map on its own scale. The maps below are not the maps above, turned. MNIST test digit."}, "image": {"alt": "Two rows of four small maps. The upper row follows the upright six, the lower row the turned six, with other patterns."}}
center = (side // 2, side // 2)
pair, both = straight[:, 0].numpy(), ("0°", "90°")
figures.heads(
    of_vit.numpy(),
    center,
    pair,
    both,
    [f"head {k + 1}" for k in range(of_vit.shape[1])],
)
# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-heads-hybrid", "caption": "The same in the last block of the hybrid, first head, for its four poses. After the turn, the map of each pose is the map of the pose before it, turned by 90°. MNIST test digit."}, "image": {"alt": "Two rows of four small maps, one column for each pose. Each map of the lower row is a turned map of the upper row, one column further to the right."}}
figures.heads(
    of_hybrid.numpy(), center, pair, both, [f"pose {k}" for k in range(group.order)]
)
# %% [markdown]
# ## Feature maps
#
# A layer $f$ is equivariant if turning its input turns its output: $f(g\,x) = g\,f(x)$. On the right, $g$ acts on a feature map: it
# turns the plane and, if the map has poses, moves each pose to the next. Both ways around the square below must end at
# the same map.

# %%
x = digits[0][None]
with torch.no_grad(), capture(hybrid, last["hybrid"]) as seen:
    hybrid(torch.cat([x, act(group, 1, x)]))
maps = measure.as_map(
    seen.features[last["hybrid"]]
)  # (image, channel, pose, row, column)
of_turned, turned_map = maps[1:], act(group, 1, maps[:1])
assert torch.allclose(of_turned, turned_map, atol=1e-4)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-square-hybrid", "caption": "The commutative square of the hybrid's last block for a quarter turn g, one channel. The four tiles of a map are its four poses. Both ways around give the same map. MNIST test digit."}, "image": {"alt": "A six and a turned six, their feature maps, the turned feature map, an equals sign and an empty difference."}}
orbit_images = torch.cat([act(group, g, x) for g in range(group.order)])[:, 0].numpy()
squares = {}
for label, model in (("hybrid", hybrid), ("ViT", vit)):
    found, expected = measure.orbit_features(model, last[label], digits[0], group)
    channel = int(found[0].flatten(1).std(1).argmax())  # the one that varies most
    squares[label] = found[:2, channel].numpy(), expected[1, channel].numpy()
figures.square(orbit_images[:2], *squares["hybrid"])
# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-square-vit", "caption": "The same square for the last block of the ViT. The two ways lead to different maps. MNIST test digit."}, "image": {"alt": "A six and a turned six, their feature maps, the turned feature map, an unequal sign and a difference as strong as the maps."}}
figures.square(orbit_images[:2], *squares["ViT"])
# %% [markdown]
# The next figure shows all layers, and adds three group attention networks. These share their random weights and
# differ in the index table alone; *Cayley table* means the index of $g^{-1}m$ (chapter 2).

# %% tags=["hide-input"]
stem = [
    f"stem.{k}"
    for k, layer in enumerate(hybrid.stem)
    if isinstance(layer, torch.nn.ReLU)
]
errors = {}
for label in ("ViT, upright", "ViT", "hybrid"):
    model = models[label]
    early = stem if label == "hybrid" else ["embed"]
    blocks = [f"blocks.{k}" for k in range(model.config.depth)]
    errors[label] = measure.residuals(model, early + blocks, digits[0], group)
for label, index in (
    ("Cayley table", cayley_index),
    ("GE-ViT", gevit_index),
    ("GSA-Net", gsa_index),
):
    torch.manual_seed(0)
    net = GroupAttentionNet(
        GroupAttentionNetConfig(
            index=index, channels=12, heads=3, window=5, blocks=(1, 2), crops=(2, 0, 0)
        )
    ).eval()
    layers = ["lifting"] + [f"layers.{k}" for k in range(len(net.layers))]
    errors[f"{label}, random"] = measure.residuals(
        net, layers, digits[0], group, inverse_names=index is gsa_index
    )

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-residuals", "caption": "The largest residual over the quarter turns, layer by layer, from the first to the logits, for one MNIST test digit. The hybrid stays at the rounding error of 32-bit numbers. The layers of both ViTs are far from equivariant; augmentation steadies mainly the logits. Among the group attention networks the first layer is exact in all three; from the next one on, the index table of GSA-Nets breaks the symmetry, and the pooling at the end hides part of that from the logits."}, "image": {"alt": "Log scale. The lines of the hybrid, GE-ViT and the Cayley table lie in the gray band of rounding errors. Those of both ViTs lie near one. That of the GSA-Net leaves the band after the first layer."}}
figures.residuals(errors)
# %% [markdown]
# The ViT's error is there from the first layer on: a patch of $4 \times 4$ pixels, read by one fixed filter, gives another token when it
# is turned.
#
# ## Representation of an orbit
#
# Take the features of a layer as one vector, a point in space. While the image turns once around, the point walks along a closed path.
# In an **equivariant** layer a quarter turn maps the path onto itself. In an **invariant** layer the four quarter turns are one point. In a
# plain ViT nothing ties the four points. In the one trained upright, the path leads far away from the upright digit.

# %% tags=["hide-input"]
others = as_float(test.images[:64])
turned_six = measure.turned(digits[0], degrees)
titles = "first layer", "last block", "logits"
paths = {}
for label in ("ViT, upright", "ViT", "hybrid"):
    names = [stem[0] if label == "hybrid" else "embed", last[label], "head"]
    poses = group.order if label == "hybrid" else 1
    of_six = measure.embeddings(models[label], names, turned_six, poses)
    of_others = measure.embeddings(models[label], names, others, poses)
    paths[label] = {
        title: (
            measure.components(of_six[name])[0] / torch.pdist(of_others[name]).mean()
        ).numpy()
        for name, title in zip(names, titles, strict=True)
    }

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-paths", "caption": "The features of one 6 while it turns once around, along the first two principal components of each path. Color is the angle; the markers show the quarter turns. The panels of a column share their scale, in units of the mean distance between two different digits at that layer. In the hybrid, a quarter turn maps the path onto itself, and at the logits the four quarter turns coincide. MNIST test digit."}, "image": {"alt": "Three rows of three panels, each with a closed path colored by angle. The hybrid's logits are a small path on which the four markers coincide."}}
figures.paths(paths, degrees)
# %% [markdown]
# Inside the hybrid the poses, 0 to 3, form a ring. While the digit turns, the activation of a channel moves along it:

# %% tags=["hide-input"]
curves = measure.tuning(hybrid, stem[0], digits[0], degrees)  # (angle, unit, pose)
unit = int(curves.std(0).mean(-1).argmax())
steps = range(0, len(degrees), max(1, len(degrees) // (4 if mode == "quick" else 12)))
low, high = curves[:, unit].min().item(), curves[:, unit].max().item()
pictures = [
    figure_uri(
        figures.ring(
            (curves[k, unit] - low).numpy(), frames[0, k], high - low, f"{degrees[k]}°"
        )
    )
    for k in steps
]
display(
    HTML(
        slideshow(
            pictures,
            [f"{degrees[k]}°" for k in steps],
            [
                f"At {degrees[k]}° the most active pose of this unit is {int(curves[k, unit].argmax())}."
                for k in steps
            ],
            "The poses of one unit as a ring around the turning digit",
            delay=400,
        )
    )
)

# %% tags=["hide-input"]
shift = max(
    float(
        (curves[:, :, pose] - curves[:, :, 0].roll(pose * len(degrees) // 4, 0))
        .abs()
        .max()
    )
    for pose in range(group.order)
)
display(
    Markdown(
        "Over the full circle, the activation of pose k is that of pose 0, delayed by k quarter turns, up to "
        f"{shift / float(curves.abs().max()):.0e} of the largest activation."
    )
)

# %% [markdown]
# ## Predictions around the circle

# %% tags=["hide-input"]
wide = list(range(0, 360, 30 if mode == "quick" else 10))
count = 8 if mode == "quick" else 40
true_class = {}
for label, model in models.items():
    few = min(count, 12) if label == "GE-ViT" else count  # group attention is slow
    true_class[label] = np.stack(
        [
            measure.probabilities(model, as_float(image), wide)[:, int(c)].numpy()
            for image, c in zip(test.images[:few], test.labels[:few], strict=True)
        ]
    )
with torch.no_grad():
    polar = {
        label: torch.cat([model(batch) for batch in turned_six.split(24)]).numpy()
        for label, model in models.items()
    }

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-polar", "caption": "The probability of the true class while a digit turns, for the first digits of the MNIST test split: median (line) and the middle 80 % (band). The rim is probability one. The upright ViT has a high median near 0° only; the others stay near the rim."}, "image": {"alt": "Polar plots. The upright ViT bulges around zero degrees and falls in elsewhere. The ViT and the hybrid stay near the rim."}}
figures.polar_probabilities(true_class, wide)
# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-polar-logits", "caption": "All ten logits of the 6 against its angle, on each network's own scale; the thick line is the true class. Where another line lies outside of it, the answer is wrong. The hybrid's picture looks the same after every quarter turn."}, "image": {"alt": "Polar plots with ten closed curves each. Those of the hybrid have a fourfold symmetry."}}
figures.polar_logits(polar, degrees, labels[0])
# %% [markdown]
# ## On your own model
#
# `capture` needs no change to the model. For any vision transformer from [timm](https://github.com/huggingface/pytorch-image-models):
#
# ```python
# model = timm.create_model("vit_small_patch16_224", pretrained=True).eval()
# with torch.no_grad(), capture(model) as seen:
#     model(images)
# flow = rollout(list(seen.attention.values()))
# maps = relevance(flow, "class_token")  # (image, row, column)
# ```
#
# ## What to remember
#
# - In an equivariant network attention and features turn with the image, and poses move along their ring.
# - Augmentation steadies the answer. It does not make the layers equivariant.
# - Look at residuals on a log scale: rounding and breaking are many powers of ten apart.
#
# ## Deeper: three exercises
#
# Each cell fails until the dots are replaced by an answer that passes its check. Solutions follow.
#
# **1.** Write rollout for two layers of one head: a function of the attention of the first layer and of the second layer, two
# matrices.

# %%
first, second = torch.rand(2, 5, 5).softmax(-1)
exercise1 = Exercise(
    lambda answer: torch.allclose(
        answer(first, second), rollout([first[None, None], second[None, None]])[0]
    )
)
exercise1(...)

# %% [markdown]
# **2.** From the hybrid's feature map of the upright digit, a tensor `(pose, row, column)`, compute the map of the digit turned by 90°, without
# running the network: a function from map to map.

# %%
feature_map = maps[0, 0]
exercise2 = Exercise(
    lambda answer: torch.allclose(answer(feature_map), maps[1, 0], atol=1e-4)
)
exercise2(...)

# %% [markdown]
# **3.** A digit is shown at all multiples of 15°. How many different answers can a network give at most if it is invariant to
# quarter turns?

# %%
exercise3 = Exercise(
    lambda answer: answer == len({angle % 90 for angle in range(0, 360, 15)})
)
exercise3(...)

# %% [markdown]
# ### Deeper: solutions
#
# **1.** The second layer acts last, so it is the factor on the left.
#
# **2.** Move every pose on by one, and turn the plane.
#
# **3.** Angles that differ by a quarter turn share an answer, so six remain.

# %% tags=["solution"]
eye = torch.eye(5)
exercise1(lambda first, second: (eye + second) / 2 @ (eye + first) / 2)
exercise2(lambda z: z.roll(1, 0).rot90(1, (1, 2)))
exercise3(6)
