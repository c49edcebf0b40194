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
# What does an equivariant layer do that an ordinary layer does not? This chapter answers with pictures.
# A digit turns, and we look at everything that happens inside the models: attention, feature maps, representations, predictions.
#
# Each picture comes from a function that you can call on your own model.
# `capture` records what the layers see. It needs no change to the model.

# %%
import copy

import numpy as np
import pandas as pd
import torch
from e2vit.actions import act
from e2vit.capture import capture
from e2vit.data import as_float, embedded, load
from e2vit.experiments import EXPERIMENTS, default_mode, run, seeds_present
from e2vit.groups import cayley_index, cyclic, dihedral, gevit_index, gsa_index
from e2vit.layers.attention import LocalGroupSelfAttention
from e2vit.models import Symmetrized
from e2vit.models.group_attention_net import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.training.fine_tuning import FineTuneConfig, fine_tune
from e2vit.training.loop import make_accelerator
from e2vit_book.inside import feature_maps, predictions, representation
from e2vit_book.inside import figures as attention
from e2vit_book.inside import measure as inspection
from e2vit_book.inside.attention_maps import (
    attention_distance,
    group_weights,
    patch_filters,
    positional_similarity,
    relevance,
    rollout,
    turned_back,
    windows_of,
)
from e2vit_book.inside.explore import explore
from e2vit_book.inside.turning import turning_figure, turning_html
from e2vit_book.player import compact_figures, figure_uri, slideshow
from IPython.display import HTML, display

# %% tags=["parameters"]
mode = default_mode()  # "quick" | "report" | "train"

# %%
compact_figures()

# %% [markdown]
# ## The models and the digits
#
# We compare three trained models, and group attention networks where a record of one is at hand:
#
# - **ViT, upright**: a plain vision transformer that has only seen upright digits.
# - **ViT, augmented**: a network of the same shape, trained on digits at all angles, and longer.
# - **hybrid**: group convolutions, then tokens that keep their pose. It is equivariant to C4, the four quarter turns.
#
# The table shows which records the pictures of this chapter are drawn from.
# Where a record is missing, a small copy of the model is trained for a moment on embedded digits, so that every picture can be drawn:
# what such a picture says about symmetry holds, what it says about skill does not.

# %%
wanted = {  # the first of these that has a record
    "ViT, upright": ("mnist/vit", "rotmnist_upright/vit"),
    "ViT, augmented": ("rotmnist/vit", "ablation/vit"),
    "hybrid": (
        "rotmnist/hybrid-c4",
        "ablation/hybrid-c4",
        "rotmnist/hybrid-c4-tenth",
        "digits/hybrid-c4",
    ),
}
names = {
    label: next((name for name in options if seeds_present(name)), options[0])
    for label, options in wanted.items()
}
published = {
    "gsa_index": "GSA-Net",
    "gevit_index": "GE-ViT",
    "cayley_index": "corrected net",
}
for name, entry in EXPERIMENTS.items():
    net = entry.model
    if (
        isinstance(net, GroupAttentionNetConfig)
        and entry.data == "rotmnist"
        and net.group == cyclic(4)
        and seeds_present(name)
    ):
        names.setdefault(published[net.index.__name__], name)
how = {
    label: mode if mode != "report" or seeds_present(name) else "quick"
    for label, name in names.items()
}
runs = {label: run(name, how[label]) for label, name in names.items()}
models = {label: result.model.eval() for label, result in runs.items()}
vit, hybrid = models["ViT, augmented"], models["hybrid"]
group = hybrid.config.group
pd.DataFrame(
    [
        {
            "model": label,
            "experiment": f"{result.record['experiment']}, seed {result.record['seed']}",
            "weights": "a moment of training"
            if how[label] == "quick"
            else "of the record",
            "trained on": f"{result.record['data']['name']} ({result.record['data']['origin']})",
            "parameters": f"{result.record['parameters']:,}",
            "test accuracy": f"{result.record['test']['accuracy']:.2%}",
        }
        for label, result in runs.items()
    ]
).style.hide(axis="index")

# %% [markdown]
# The digits come from the MNIST test split, upright. The models that were trained on turned digits may have met some of them at another angle:
# rotMNIST is made from MNIST. So nothing here is a measure of accuracy. We look at behavior.
#
# Among the sixes we take the one that the upright ViT finds most like a nine after half a turn.

# %%
splits = embedded("mnist") if mode == "quick" else load("mnist")
test = splits.test[:2000]
sixes = as_float(test.images[test.labels == 6])[:200]
labels = [6, 4, 7, 2]
digits = [
    sixes[inspection.most_ambiguous(models["ViT, upright"], sixes, label=6, other=9)]
] + [as_float(test.images[test.labels == c][0]) for c in labels[1:]]
step = 30 if mode == "quick" else 5
degrees = list(range(0, 360, step))
print(f"{splits.origin}, {len(degrees)} angles from 0 to {degrees[-1]} degrees")

# %% [markdown]
# ## A digit turns
#
# A model $f$ is *invariant* to a turn $g$ if $f(g\,x) = f(x)$. Turning the input must not change the answer.
# We turn a digit by small steps and ask every model at every step.

# %%
frames = np.stack([inspection.turned(x, degrees)[:, 0].numpy() for x in digits])
said = {
    label: np.stack(
        [inspection.probabilities(model, x, degrees).numpy() for x in digits]
    )
    for label, model in models.items()
}

# %% [markdown]
# Drag the slider, or press play. Blue is the true class, orange is any other.
# The band below the bars shows the answer at every angle at once.

# %%
display(HTML(turning_html(frames, degrees, labels, said)))

# %% mystnb={"figure": {"name": "fig-turning", "caption": "The 6 of the slider above, turned through a full circle. The height of an area is the probability of the class that the model names, which is written into it; dark means right. Upside down the 6 is a 9 to a model that has only seen upright digits. Digit: MNIST test split; models and records: the table above."}, "image": {"alt": "A turning six along the top. Below, the answer of each model against the angle. The upright ViT is right near zero degrees alone and names a nine at half a turn. The hybrid repeats itself every quarter turn."}}
turning_figure(
    frames[0], degrees, labels[0], {label: p[0] for label, p in said.items()}
)
# %% [markdown]
# The hybrid's curve repeats itself every 90 degrees. That of the augmented ViT looks as flat. The numbers tell them apart:

# %%
quarter_turns = [k for k, angle in enumerate(degrees) if angle % 90 == 0]
for label, p in said.items():
    change = np.abs(p[:, quarter_turns] - p[:, :1]).max()
    print(f"{label}: probabilities change by at most {change:.1e} under quarter turns")

# %% [markdown]
# Augmentation makes a model *nearly* invariant, by example. Equivariance makes it *exactly* invariant, by construction, but only to the turns in its group.
# Between the quarter turns both models have to learn.
#
# One thing no model can do: a 6 turned by 180 degrees can have the pixels of a 9. An invariant model has to call both by one name.

# %% [markdown]
# ## Attention
#
# A layer of attention mixes tokens with weights $A$: each row of $A$ belongs to a token that asks, and adds up to one.
# What reaches the output has passed through all layers, and around each of them through the shortcut.
# *Attention rollout* ([Abnar and Zuidema, 2020](https://arxiv.org/abs/2005.00928)) multiplies the layers:
#
# $$ R = \prod_{\ell} \left( \tfrac12 I + \tfrac12 \bar A_\ell \right), \qquad \bar A_\ell \text{ the mean over heads}. $$

# %%
turns = [0, 45, 90, 180]
six_turned = inspection.turned(digits[0], turns)
relevances = {}
for label in ("ViT, augmented", "hybrid"):
    with torch.no_grad(), capture(models[label]) as seen:
        models[label](six_turned)
    relevances[label] = relevance(rollout(list(seen.attention.values())))
    back = relevances[label][2].rot90(-1)
    change = (back - relevances[label][0]).abs().max() / relevances[label][0].max()
    print(
        f"{label}: the map of the digit at 90°, turned back, differs by {change:.1e} of the largest value"
    )

# %% mystnb={"figure": {"name": "fig-rollout", "caption": "Attention rollout from the output to the input, for a turning 6. Bright: much of the output comes from there; each map has its own scale. The hybrid's map at 90° and 180° is the first map, turned. The ViT's map follows only roughly; the numbers above say how far it is off. Digit: MNIST test split; models and records: the table at the top."}, "image": {"alt": "Three rows of four pictures: the six at four angles, and for each model a coarse map of seven by seven cells."}}
attention.relevance_maps(
    six_turned[:, 0].numpy(),
    {label: maps.numpy() for label, maps in relevances.items()},
    [f"{angle}°" for angle in turns],
)
# %% [markdown]
# The rollout is a sketch: it leaves out what the value projections do, and in the hybrid it starts at the tokens, behind the convolutions.
# But what it claims about symmetry is exact. The same in motion:

# %%
coarse = list(range(0, 360, 90 if mode == "quick" else 30))
rows = inspection.turned(digits[0], coarse)
flow = {
    label: relevance(
        rollout(
            list(
                inspection.attention(
                    models[label],
                    [
                        f"blocks.{k}.attention"
                        for k in range(models[label].config.depth)
                    ],
                    rows,
                ).values()
            )
        )
    ).numpy()
    for label in ("ViT, augmented", "hybrid")
}
pictures = [
    figure_uri(
        attention.relevance_maps(
            rows[[k], 0].numpy(),
            {label: maps[[k]] for label, maps in flow.items()},
            [f"{angle}°"],
        ),
        dpi=70,
    )
    for k, angle in enumerate(coarse)
]
display(
    HTML(
        slideshow(
            pictures,
            [f"{angle}°" for angle in coarse],
            [
                f"The six turned by {angle} degrees, and the attention rollout of both models."
                for angle in coarse
            ],
            "Attention rollout of a turning six",
        )
    )
)

# %% [markdown]
# ### Head by head
#
# The rollout hides the single heads. Here they are, for the patch in the middle of the image.

# %%
middle = vit.config.side // 2
query = middle * vit.config.side + middle
vit_layers = [f"blocks.{k}.attention" for k in range(vit.config.depth)]
maps = inspection.attention(vit, vit_layers, digits[0][None])
by_head = torch.stack(
    [
        maps[layer][0, :, query].unflatten(-1, (vit.config.side, -1))
        for layer in vit_layers
    ]
)

# %% mystnb={"figure": {"name": "fig-heads-vit", "caption": "What the middle patch (framed) looks at in the plain ViT, for each layer and head; bright is much, each map on its own scale. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "A grid of small maps, one row for each layer and one column for each head. Some are narrow spots, some follow the digit."}}
attention.heads(by_head.numpy(), (middle, middle), digits[0][0].numpy())
# %% [markdown]
# In the hybrid every head exists once for each pose. A head in pose 1 is the same head, as seen by someone who has turned by 90 degrees.

# %%
hybrid_layers = [f"blocks.{k}.attention" for k in range(hybrid.config.depth)]
maps = inspection.attention(hybrid, hybrid_layers, digits[0][None])
side = hybrid.config.side
middle_hybrid = side // 2
by_pose = torch.stack(
    [
        maps[layer][0, :, 0, middle_hybrid * side + middle_hybrid].unflatten(
            -1, (side, -1)
        )
        for layer in hybrid_layers
    ]
)

# %% mystnb={"figure": {"name": "fig-heads-hybrid", "caption": "What the middle token (framed) looks at in the hybrid, first head, for each layer and pose. The poses look at different places. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "A grid of small maps, one row for each layer and one column for each of four poses."}}
attention.heads(
    by_pose.numpy(),
    (middle_hybrid, middle_hybrid),
    digits[0][0].numpy(),
    [f"pose {pose}" for pose in range(group.order)],
)
# %% [markdown]
# ### Deeper: how far do heads look?
#
# The *attention distance* of a head is the mean distance in pixels between a token and what it looks at
# ([Dosovitskiy et al., 2021](https://arxiv.org/abs/2010.11929)). In large vision transformers it grows with depth.
# Our images are small, and so are our models: compare with the dashed line.

# %%
some = as_float(test.images[:64])
distance = {}
for label, layers in (("ViT, augmented", vit_layers), ("hybrid", hybrid_layers)):
    pixels = models[label].config.image_size / models[label].config.side
    maps = inspection.attention(models[label], layers, some)
    distance[label] = torch.stack(
        [attention_distance(maps[layer], pixels) for layer in layers]
    ).numpy()
tokens = vit.config.side**2
even = attention_distance(
    torch.full((1, 1, tokens, tokens), 1 / tokens), vit.config.patch_size
).item()

# %% mystnb={"figure": {"name": "fig-distance", "caption": "Mean attention distance of each head against depth, over 64 test digits of MNIST. The dashed line is a head that looks everywhere alike. The tokens of both models stand four pixels apart. Models and records: the table at the top."}, "image": {"alt": "One marker for each head of each layer, at the height of its mean attention distance."}}
attention.distances(distance, even)
# %% [markdown]
# ### Deeper: where the ViT keeps its geometry
#
# A plain ViT has two places where it can store what the plane looks like: one learned vector for each position, and the filters that read the patches.

# %% mystnb={"figure": {"name": "fig-position-similarity", "caption": "Learned positions of the upright ViT. Each tile belongs to one patch and shows the cosine between its position vector and all others. Model and record: the table at the top."}, "image": {"alt": "A grid of seven by seven tiles, each a map of seven by seven cells, bright where the tile itself stands."}}
attention.similarity(
    positional_similarity(models["ViT, upright"].position[0].detach()).numpy()
)
# %% mystnb={"figure": {"name": "fig-patch-filters", "caption": "The first principal components of the filters with which the augmented ViT reads its patches, and their share of the variance. Red and blue are opposite signs. Model and record: the table at the top."}, "image": {"alt": "Sixteen small filters of four by four pixels in red and blue, from the most to the least frequent."}}
attention.patch_filters(*(x.numpy() for x in patch_filters(vit.embed.weight, 16)))
# %% [markdown]
# Neither knows of rotations. What one angle teaches them, they do not know for the next.
#
# ### Look for yourself
#
# With a kernel you can choose digit, layer, head and angle. Without one, the pictures above are the still version.

# %% tags=["remove-output"]
explore(
    lambda digit, layer, head, angle: attention.heads(
        inspection.attention(vit, [layer], inspection.turned(digits[digit], [angle]))[
            layer
        ][:, [head], query]
        .unflatten(-1, (vit.config.side, -1))
        .numpy(),
        (middle, middle),
        inspection.turned(digits[digit], [angle])[0, 0].numpy(),
        [f"head {head + 1}"],
    ),
    digit=range(len(digits)),
    layer=vit_layers,
    head=range(vit.config.heads),
    angle=range(0, 360, 15),
)

# %% [markdown]
# ## Group attention
#
# A group self-attention layer gives every pixel $x$ and every pose $v$ of the output one map of weights for each query pose $g$:
# over the keys at the offsets $o$ in a window around the pixel, and over their poses $m$. If the layer is equivariant, turning the input by $r$ does three things to these weights and nothing else:
#
# $$ A'[rv,\, rg,\, rm,\, r\,o](r\,x) = A[v,\, g,\, m,\, o](x). $$
#
# The poses are permuted, the window turns, the pixel moves. So we can *turn the weights back* and take the difference.
# The forms of the layer differ in one table: which embedding of a group element enters the score.
# (GSA-Nets also call pose $v$ what we call $v^{-1}$. That is a matter of names, and `group_weights` undoes it.)
# We give all three the same weights, drawn at random: what we ask is a property of the layer, not of the training.

# %%
torch.manual_seed(0)
window, pixel, r = 5, (10, 17), 1
layers = {
    label: LocalGroupSelfAttention(group, 6, 2, 6, window=window, index=index)
    for label, index in (
        ("GSA-Nets", gsa_index),
        ("GE-ViT", gevit_index),
        ("corrected", cayley_index),
    )
}
lift = LocalGroupSelfAttention(
    group, 1, 2, 6, window=window, out_channels=6, lifting=True
)
for parameter in (*layers["corrected"].parameters(), *lift.parameters()):
    torch.nn.init.normal_(
        parameter, std=0.7
    )  # large, so that attention is no plain average
shared = layers["corrected"].state_dict()
six = digits[0][None]
six_r = six.rot90(r, (-2, -1))
weights = {}
for label, layer in layers.items():
    layer.load_state_dict(shared)
    weights[label] = [group_weights(layer, lift(x)) for x in (six, six_r)]
    back = turned_back(weights[label][1], group, r)
    error = (back - weights[label][0]).abs().max() / weights[label][0].max()
    print(
        f"{label}: after turning back, the weights differ by {error:.1e} of the largest weight"
    )

# %% [markdown]
# A quarter turn counter-clockwise takes pixel (row, column) to (side − 1 − column, row).
# We look at one pixel, in the first head, from output pose and query pose 0. Over the turned image that is pose $r$.

# %%
turned_pixel = (six.shape[-1] - 1 - pixel[1], pixel[0])
views = {}
for label, (straight, turned) in weights.items():
    first, after, back = (
        windows_of(x)[0, 0] for x in (straight, turned, turned_back(turned, group, r))
    )
    views[label] = [
        first[0, 0, ..., pixel[0], pixel[1]],
        after[r, r, ..., turned_pixel[0], turned_pixel[1]],
        back[0, 0, ..., pixel[0], pixel[1]],
    ]

# %% mystnb={"figure": {"name": "fig-window-corrected", "caption": "The corrected layer at one pixel, one column for each key pose. First row: its attention in the window. Second row: the same over the turned image, at the turned pixel. Third row: turned back. Last row: the difference, on the scale of the first row. It is zero but for rounding. Random weights, the same as in the next figure."}, "image": {"alt": "Four rows of windows of five by five cells for four poses. The first and third rows look the same. The last row is dark."}}
attention.turned_windows(
    *(x.numpy() for x in views["corrected"]),
    six[0, 0].numpy(),
    six_r[0, 0].numpy(),
    pixel,
    turned_pixel,
)
# %% mystnb={"figure": {"name": "fig-window-gsa", "caption": "The same with the index table of the released GSA-Nets and the same weights. Turned back, the attention is another one: the last row is not dark. The layer is not equivariant."}, "image": {"alt": "Four rows of windows of five by five cells for four poses. The third row differs from the first. The last row has bright cells."}}
attention.turned_windows(
    *(x.numpy() for x in views["GSA-Nets"]),
    six[0, 0].numpy(),
    six_r[0, 0].numpy(),
    pixel,
    turned_pixel,
)
# %% [markdown]
# With a kernel, choose the table, the head, and the turn:

# %% tags=["remove-output"]
everywhere = {
    label: [
        group_weights(layer, lift(six.rot90(k, (-2, -1)))) for k in range(group.order)
    ]
    for label, layer in layers.items()
}
places = [pixel]
for _ in range(group.order - 1):
    places.append((six.shape[-1] - 1 - places[-1][1], places[-1][0]))
explore(
    lambda table, head, turn: attention.turned_windows(
        *(
            windows_of(x)[0, head, pose, pose][..., row, column].numpy()
            for x, pose, (row, column) in (
                (everywhere[table][0], 0, pixel),
                (everywhere[table][turn], turn, places[turn]),
                (turned_back(everywhere[table][turn], group, turn), 0, pixel),
            )
        ),
        six[0, 0].numpy(),
        six[0, 0].rot90(turn).numpy(),
        pixel,
        places[turn],
    ),
    table=list(layers),
    head=range(2),
    turn=range(group.order),
)

# %% [markdown]
# Over the whole orbit of the input, the corrected layer's windows turn and change places. Nothing else happens to them.

# %%
orbit_images = torch.stack([six[0, 0].rot90(k) for k in range(group.order)])
with torch.no_grad():
    orbit_windows = torch.stack(
        [
            windows_of(group_weights(layers["corrected"], lift(x[None, None])))[
                0, 0, k, k, ..., row, column
            ]
            for k, (x, (row, column)) in enumerate(
                zip(orbit_images, places, strict=True)
            )
        ]
    )
orbit_names = [f"{90 * k}°" for k in range(group.order)]
pictures = [
    figure_uri(figure)
    for figure in attention.orbit_of_windows(
        orbit_images.numpy(), orbit_windows.numpy(), places, orbit_names
    )
]
display(
    HTML(
        slideshow(
            pictures,
            orbit_names,
            [
                f"The six turned by {name}, the marked pixel, and its attention in four poses."
                for name in orbit_names
            ],
            "Group attention over the orbit of the input",
        )
    )
)

# %% [markdown]
# What stood in pose $m$ stands in pose $rm$ after the turn, and its window has turned along.
#
# With mirrors, the repaired table of GE-ViT fails too. The table lists the largest difference for every element of D4, in shares of the largest weight.

# %%
d4 = dihedral(4)
torch.manual_seed(1)
rows = {}
for label, index in (
    ("GSA-Nets", gsa_index),
    ("GE-ViT", gevit_index),
    ("corrected", cayley_index),
):
    layer = LocalGroupSelfAttention(d4, 2, 1, 6, window=3, index=index)
    if rows:
        layer.load_state_dict(shared)
    shared = layer.state_dict()
    x = torch.randn(1, 2, d4.order, 5, 5, generator=torch.Generator().manual_seed(2))
    straight = group_weights(layer, x)
    rows[label] = [
        (
            (turned_back(group_weights(layer, act(d4, g, x)), d4, g) - straight)
            .abs()
            .max()
            / straight.max()
        ).item()
        for g in range(d4.order)
    ]
turn_names = [f"turn by {90 * k}°" for k in range(4)] + [
    f"mirror, turn by {90 * k}°" for k in range(4)
]
pd.DataFrame(rows, index=turn_names).map("{:.0e}".format)

# %% [markdown]
# ## Feature maps
#
# A layer $f$ is equivariant if turning its input turns its output: $f(g\,x) = g\,f(x)$.
# On the right, $g$ acts on the feature map: it turns the plane and, if the map has poses, moves each pose to the place of the next.
# Going around the square both ways must lead to the same map.

# %%
deep = f"blocks.{hybrid.config.depth - 1}"
found, expected = inspection.orbit_features(hybrid, deep, digits[0], group)
channel = int(found[0].flatten(1).std(1).argmax())
vit_deep = f"blocks.{vit.config.depth - 1}"
vit_found, vit_expected = inspection.orbit_features(vit, vit_deep, digits[0], group)
vit_channel = int(vit_found[0].flatten(1).std(1).argmax())
orbit_pictures = orbit_images.numpy()

# %% mystnb={"figure": {"name": "fig-square-hybrid", "caption": "The commutative square of the hybrid's last block, for a quarter turn, one channel. The four tiles of a map are its four poses. Both ways around give the same map. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "A six and a turned six, their feature maps, the turned feature map, an equals sign and an empty difference."}}
feature_maps.square(
    *orbit_pictures[:2],
    found[0, channel].numpy(),
    expected[1, channel].numpy(),
    found[1, channel].numpy(),
)
# %% mystnb={"figure": {"name": "fig-square-vit", "caption": "The same square for the last block of the augmented ViT. The two ways lead to different maps. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "A six and a turned six, their feature maps, the turned feature map, an unequal sign and a difference as strong as the maps."}}
feature_maps.square(
    *orbit_pictures[:2],
    vit_found[0, vit_channel].numpy(),
    vit_expected[1, vit_channel].numpy(),
    vit_found[1, vit_channel].numpy(),
)
# %% [markdown]
# All four turns side by side, with the residual below. First the hybrid, then the ViT.

# %% mystnb={"figure": {"name": "fig-orbit-hybrid", "caption": "One channel of the hybrid's last block over the orbit of a 6. Turning the input moves the tiles around and turns each of them. The number is the largest residual, in shares of the largest value of the map. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "Four columns, one for each quarter turn. The second and third row are equal; the last is blank."}}
feature_maps.orbit(
    orbit_pictures, found[:, channel].numpy(), expected[:, channel].numpy(), orbit_names
)
# %% mystnb={"figure": {"name": "fig-orbit-vit", "caption": "One channel of the last block of the augmented ViT over the same orbit. The first column is equal by definition, the others are not. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "Four columns, one for each quarter turn. From the second column on, the two middle rows differ, and the last row is as strong as they are."}}
feature_maps.orbit(
    orbit_pictures,
    vit_found[:, vit_channel].numpy(),
    vit_expected[:, vit_channel].numpy(),
    orbit_names,
)
# %% [markdown]
# And through the whole depth. The ViT's error is there from the first layer: a patch of 4 × 4 pixels, read by one fixed filter, gives another token when it is turned.
#
# The group attention networks stand beside them. Where we have no record of one, it has fresh weights, the same for all three, and is smaller than the published one.

# %%
indices = {"GSA-Net": gsa_index, "GE-ViT": gevit_index, "corrected net": cayley_index}
nets = {}
for label, index in indices.items():
    torch.manual_seed(0)
    fresh = GroupAttentionNet(
        GroupAttentionNetConfig.rotmnist(
            index=index, channels=12, heads=3, window=5, blocks=(1, 2), crops=(2, 0, 0)
        )
    ).eval()
    nets[label if label in models else f"{label}, fresh"] = models.get(label, fresh)
deep_models = {
    label: models[label] for label in ("ViT, upright", "ViT, augmented", "hybrid")
} | nets
depth_layers = {
    label: ["embed"] + [f"blocks.{k}" for k in range(models[label].config.depth)]
    for label in ("ViT, upright", "ViT, augmented")
}
stem = [
    f"stem.{k}"
    for k, layer in enumerate(hybrid.stem)
    if isinstance(layer, torch.nn.ReLU)
]
depth_layers["hybrid"] = stem + [f"blocks.{k}" for k in range(hybrid.config.depth)]
all_layers = depth_layers | {
    label: ["lifting"] + [f"layers.{k}" for k in range(len(net.layers))]
    for label, net in nets.items()
}
errors = {}
for label, layers_of in all_layers.items():
    errors[label] = {}
    for layer in layers_of:
        maps, turned_maps = inspection.orbit_features(
            deep_models[label],
            layer,
            digits[0],
            group,
            inverse_names=label.startswith("GSA"),
        )
        errors[label][layer] = feature_maps.relative_residual(
            maps.numpy(), turned_maps.numpy()
        )
    with torch.no_grad():
        logits = deep_models[label](orbit_images[:, None])
    errors[label]["logits"] = feature_maps.relative_residual(
        logits.numpy(), logits[:1].numpy()
    )

# %% mystnb={"figure": {"name": "fig-residuals", "caption": "The largest residual over the four quarter turns, layer by layer, from the first to the logits. The hybrid stays at the rounding error of 32-bit numbers. Augmentation makes the logits of a ViT less dependent on the turn, not its layers equivariant. Among the group attention networks the lifting layer is exact in all three; from the next layer on, the index table of GSA-Nets breaks the symmetry. For this digit the pooling at the end hides part of that from the logits. Other digits show more. Digit: MNIST test split; models and records: the table at the top, and fresh weights where the legend says so."}, "image": {"alt": "Log scale. The lines of the hybrid, GE-ViT and the corrected net lie in the gray band of rounding errors. Those of both ViTs lie near one. That of the GSA-Net leaves the band after the first layer and stays orders of magnitude above it."}}
feature_maps.residuals(errors)
# %% [markdown]
# ### Look for yourself

# %% tags=["remove-output"]
explore(
    lambda model, layer, channel, digit: feature_maps.orbit(
        inspection.turned(digits[digit], [0, 90, 180, 270])[:, 0].numpy(),
        *(
            x[:, channel % x.shape[1]].numpy()
            for x in inspection.orbit_features(
                models[model],
                depth_layers[model][layer % len(depth_layers[model])],
                digits[digit],
                group,
            )
        ),
        orbit_names,
    ),
    model=list(depth_layers),
    layer=range(8),
    channel=range(16),
    digit=range(len(digits)),
)

# %% [markdown]
# ## Representation space
#
# Take the features of one layer as a point. While the image turns once around, the point walks along a path and comes back.
#
# - An **equivariant** layer makes a closed loop, on which quarter turns do to the point what they do to the poses.
# - An **invariant** layer would make a single point.
# - A plain ViT makes no loop that a turn maps onto itself. Trained upright, its path leads far away, to where other digits are.
#
# Each path is drawn along its own two principal components. The unit of all axes is the typical distance between two different digits at that layer,
# so a path of length one would be as long as the way from one digit to another.

# %%
turned_six = inspection.turned(digits[0], degrees)
paths = {}
for label, layers_of in depth_layers.items():
    chosen = [layers_of[0], layers_of[len(layers_of) // 2], layers_of[-1], "head"]
    poses = group.order if label == "hybrid" else 1
    of_six = inspection.embeddings(models[label], chosen, turned_six, poses)
    of_others = inspection.embeddings(models[label], chosen, some, poses)
    paths[label] = {}
    for layer in chosen:
        unit = torch.pdist(of_others[layer]).mean()
        paths[label]["logits" if layer == "head" else layer] = (
            inspection.components(of_six[layer])[0] / unit
        ).numpy()

# %% mystnb={"figure": {"name": "fig-paths", "caption": "The features of one 6 while it turns once around, at four layers of each model. Color is the angle, and the numbers mark the quarter turns. The hybrid runs in loops, which a quarter turn maps onto themselves. At its logits the four quarter turns fall on one point, and what is left of the path is what happens between them. Digit: MNIST test split; models and records: the table at the top."}, "image": {"alt": "Three rows of four panels, each with a closed path colored by angle. The hybrid's logits are a small path on which the four numbers coincide."}}
reach = 1.2 * max(
    np.abs(path).max() for layers_of in paths.values() for path in layers_of.values()
)
print(
    f"half the width of a panel is {reach:.2f} of the typical distance between two digits"
)
representation.paths(paths, degrees, float(reach))
# %% [markdown]
# ### Deeper: tuning curves
#
# Neuroscientists turn a bar in front of an eye and record how strongly a cell answers at each angle: its *tuning curve*.
# We do the same to units of the hybrid's first layer. Each unit exists in four poses. Their curves are one curve, shifted by 90 degrees.
# The small teeth at multiples of 90 degrees come from the input: there, and only there, no interpolation blurs the digit.

# %%
curves = inspection.tuning(hybrid, stem[0], digits[0], degrees)
strong = curves.std(0).mean(-1).argsort(descending=True)[:3]
shift = (
    max(
        (curves[:, :, pose] - curves[:, :, 0].roll(pose * 90 // step, 0))
        .abs()
        .max()
        .item()
        for pose in range(group.order)
    )
    / curves.abs().max().item()
)
print(f"pose k is pose 0 shifted by 90·k degrees, to {shift:.0e} of the largest answer")

# %% mystnb={"figure": {"name": "fig-tuning", "caption": "Tuning curves of three units behind the hybrid's first convolution while a 6 turns: the mean answer over all positions, in each of the four poses. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "Three panels with four curves each. Within a panel the curves have one shape and are shifted against each other by ninety degrees."}}
representation.tuning_curves(
    curves[:, strong].numpy(), degrees, [f"unit {int(unit)}" for unit in strong]
)
# %% [markdown]
# The poses form a ring. While the digit turns, the activity walks around it.

# %%
unit = int(strong[0])
ring_steps = list(
    range(0, len(degrees), max(1, len(degrees) // (4 if mode == "quick" else 12)))
)
low, high = curves[:, unit].min().item(), curves[:, unit].max().item()
pictures = [
    figure_uri(
        representation.ring(
            (curves[k, unit] - low).numpy(), frames[0, k], high - low, f"{degrees[k]}°"
        ),
        dpi=70,
    )
    for k in ring_steps
]
display(
    HTML(
        slideshow(
            pictures,
            [f"{degrees[k]}°" for k in ring_steps],
            [
                f"Unit {unit}: the pose that answers most is {int(curves[k, unit].argmax())}."
                for k in ring_steps
            ],
            "The poses of one unit as a ring around the turning digit",
            delay=400,
        )
    )
)

# %% [markdown]
# ## Predictions
#
# The last picture of a turn: the probability of the true class as the distance from the center, the angle as the angle.

# %%
wide = list(range(0, 360, 30 if mode == "quick" else 10))
counts = {
    label: 8 if mode == "quick" else 12 if isinstance(model, GroupAttentionNet) else 40
    for label, model in models.items()
}  # group attention is slow
true_class = {
    label: np.stack(
        [
            inspection.probabilities(model, as_float(image), wide)[:, int(c)].numpy()
            for image, c in zip(
                test.images[: counts[label]], test.labels[: counts[label]], strict=True
            )
        ]
    )
    for label, model in models.items()
}
print(f"number of images: {counts}")

# %% mystnb={"figure": {"name": "fig-polar", "caption": "The probability of the true class while a digit turns, for the first images of the MNIST test split (thin lines; the thick line is their mean; how many is printed above). The rim is probability one. Models and records: the table at the top."}, "image": {"alt": "Polar plots. The upright ViT bulges around zero degrees and falls in elsewhere. The augmented ViT and the hybrid stay near the rim."}}
predictions.polar_probabilities(true_class, wide)
# %%
with torch.no_grad():
    polar = {
        label: torch.cat(
            [model(batch) for batch in inspection.turned(digits[0], degrees).split(24)]
        ).numpy()
        for label, model in models.items()
    }

# %% mystnb={"figure": {"name": "fig-polar-logits", "caption": "All ten logits of the 6 against its angle, on each model's own scale; the thick line is the true class. Where another line lies outside of it, the answer is wrong. The hybrid's figure looks the same after every quarter turn. Digit: MNIST test split; models and records: the table at the top."}, "image": {"alt": "Polar plots with ten closed curves each. Those of the hybrid have a fourfold symmetry."}}
predictions.polar_logits(polar, degrees, labels[0])
# %% [markdown]
# ### Deeper: between the quarter turns
#
# The hybrid knows four turns. What about the angles in between? We turn the input by any angle, and compare with the feature map turned by the same angle.
# The comparison is within the disc that stays in the picture. Turning a coarse map needs interpolation, so some error is there for every model; what counts is how it depends on the angle.

# %%
angles = list(range(45, 181, 45)) if mode == "quick" else list(range(5, 181, 5))
by_angle = {}
for label, layers_of in depth_layers.items():
    chosen = [layers_of[0], layers_of[len(layers_of) // 2], layers_of[-1], "head"]
    values = inspection.equivariance_by_angle(
        models[label],
        chosen,
        digits[0],
        angles,
        group.order if label == "hybrid" else 1,
    )
    by_angle[label] = {
        "logits" if layer == "head" else layer: row.numpy()
        for layer, row in zip(chosen, values, strict=True)
    }

# %% mystnb={"figure": {"name": "fig-error-angle", "caption": "Equivariance error of four layers against the angle, on a log scale. The hybrid's errors fall to rounding at 90 and 180 degrees, at all layers at once. Those of the ViTs do not. Digit: MNIST test split; models and records: the table at the top."}, "image": {"alt": "Three panels. All errors are large between the quarter turns. At ninety and one hundred eighty degrees the lines of the hybrid drop by five to six orders of magnitude."}}
predictions.errors_by_angle(by_angle, angles)
# %% [markdown]
# ### Look for yourself

# %% tags=["remove-output"]
explore(
    lambda digit: predictions.polar_probabilities(
        {label: true_class[label][[digit]] for label in true_class}, wide
    ),
    digit=range(min(counts.values())),
)

# %% [markdown]
# ## Deeper: views of a model made invariant afterwards
#
# A post-hoc method shows all views of an image to an ordinary model and combines the answers.
# With the aggregate *most certain*, the view decides of which the model is surest. That view is a guess of what is upright.

# %%
eight = cyclic(8)
symmetrized = Symmetrized(
    models["ViT, upright"], eight, "most_certain", interpolation="bilinear"
).eval()
tilted = inspection.turned(digits[1], [60])
with torch.no_grad():
    view_images, view_logits = (
        symmetrized.views(tilted)[0, :, 0],
        symmetrized.view_logits(tilted)[0],
    )

# %% mystnb={"figure": {"name": "fig-views", "caption": "The eight views of a 4 that was turned by 60 degrees, what the upright ViT says of each, and how surely. The surest view is framed and decides. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "Eight turned pictures of a four. One, nearly upright, is framed; its bar is the tallest."}}
predictions.views(view_images.clamp(0, 1).numpy(), view_logits.softmax(-1).numpy())
# %% [markdown]
# Turn the input further, and the deciding view moves the other way: view and input together mostly stay upright.

# %%
finer = list(range(0, 360, 30 if mode == "quick" else 7))
with torch.no_grad():
    sure = (
        symmetrized.view_logits(inspection.turned(digits[1], finer))
        .softmax(-1)
        .amax(-1)
    )

# %% mystnb={"figure": {"name": "fig-deciding", "caption": "How sure the upright ViT is of each of eight views while a 4 turns. The dot marks the view that decides. Most dots run diagonally: the view undoes the turn. Digit: MNIST test split; model and record: the table at the top."}, "image": {"alt": "A color map, angle against view, with dots along a diagonal that wraps around."}}
predictions.deciding_view(
    sure.numpy(), finer, sure.argmax(-1).numpy(), [f"{45 * k}°" for k in range(8)]
)
# %% [markdown]
# Another aggregate, *learned attention*, lets a class token look at the features of all views and weigh them.
# We train the token and the last layer here, on a few hundred upright digits. The rest of the ViT stays as it is.

# %%
torch.manual_seed(0)
listening = Symmetrized(
    copy.deepcopy(models["ViT, upright"]),
    eight,
    "learned_attention",
    interpolation="bilinear",
)
few = 100 if mode == "quick" else 600
tuned = fine_tune(
    listening,
    splits.train[:few],
    splits.validation[: few // 2],
    FineTuneConfig("head", epochs=3 if mode == "quick" else 15, rates=(3e-3,)),
    accelerator=make_accelerator(),
)
with torch.no_grad(), capture(listening, ["aggregate"]) as seen:
    listening(tilted)
print(
    f"{few} digits, {len(tuned.curve)} epochs; validation accuracy {tuned.curve[tuned.chosen_epoch - 1]['accuracy']:.1%}"
)

# %% mystnb={"figure": {"name": "fig-attended", "caption": "The same eight views, and below, how much of each head's attention each view gets (one bar for each head; the dashed line is an even share). The weights belong to what a view shows, not to its place in the list: turn the input by 90 degrees, and they move on by two views. Digit: MNIST test split; model and record: the table at the top, and a token trained in the cell above."}, "image": {"alt": "Eight turned pictures of a four, the sureness of the model for each, and four bars of attention for each."}}
predictions.views(
    view_images.clamp(0, 1).numpy(),
    view_logits.softmax(-1).numpy(),
    seen.attention["aggregate"][0].numpy(),
)

# %% [markdown]
# ## On your own model
#
# All of this works on models that were never made for it. For any vision transformer from [timm](https://github.com/huggingface/pytorch-image-models):
#
# ```python
# model = timm.create_model("vit_small_patch16_224", pretrained=True).eval()
# with torch.no_grad(), capture(model) as seen:
#     model(images)
# maps = list(seen.attention.values())    # (batch, head, query, key) for each layer
# attention.relevance_maps(gray_images, {"timm": relevance(rollout(maps), "class_token").numpy()}, titles)
# ```
#
# `capture` finds fused attention, attention written out, and layers that tell their own weights.
# It leaves no trace in the model when its block closes.
