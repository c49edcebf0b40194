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
# # Using positional encodings to make the model equivariant
#
# Attention does not see where its tokens are. Positional encodings tell it.
# So they decide which symmetries a transformer keeps.
# This chapter starts with no positions at all, adds them step by step, and measures at each step what is kept and what
# is lost.
# At the end stands group self-attention, and one index table on which everything depends.
#
# You need no group theory. We begin with a digit that turns.

# %%
import numpy as np
import torch
import torch.nn.functional as F
from e2vit.actions import (
    act,
    equivariance_error,
    exact_elements,
    invariance_error,
    is_exact,
    rotate,
)
from e2vit.data import as_float, embedded, load
from e2vit.experiments import default_mode
from e2vit.groups import (
    cayley_index,
    cyclic,
    dihedral,
    gevit_index,
    gsa_index,
    is_diagonal_invariant,
)
from e2vit.layers import LocalGroupSelfAttention
from e2vit.layers.position import AbsolutePosition, seen_offsets
from e2vit.models.group_attention_net import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.models.transformer import MultiHeadAttention
from e2vit_book.positions import figures
from einops import rearrange
from torch import nn

# %% tags=["parameters"]
mode = default_mode()  # "quick" | "report" | "train"

# %% [markdown]
# ## A digit that turns: groups
#
# Take one digit and turn it by 0, 90, 180 and 270 degrees. Each of these four moves is called an *element*.
# We number them 0 to 3. Three things are true of them:
#
# - One of them does nothing: element 0, the *identity*.
# - Two of them, one after the other, are again one of them. This is their *product*; $gh$ means first $h$, then $g$.
# - Each can be undone by one of them, its *inverse* $g^{-1}$.
#
# A set of moves with these properties is a *group*. This one is called $C_4$.
# All there is to know about it stands in its product table.

# %%
digits = embedded("mnist") if mode == "quick" else load("mnist")
which = (digits.test.labels == 4).nonzero()[0, 0]
digit = as_float(
    digits.test.images[which : which + 1]
).double()  # batch, channel, height, width

group = cyclic(4)
turned_digits = torch.cat([act(group, g, digit) for g in range(group.order)])[:, 0]
print(f"{digits.name}, {digits.origin}")
print("inverse of 0, 1, 2, 3:", group.inverse.tolist())

# %% mystnb={"figure": {"name": "fig-product-table", "caption": "The product table of C4 in pictures. A digit is turned first by the element of its column, then by that of its row. The result (blue frame) is always one of the four pictures we began with, and its number is the product."}, "image": {"alt": "A table with four rows and four columns. Its margins show a digit turned by 0, 90, 180 and 270 degrees; each cell shows the digit turned by the sum of both angles."}}
turns = ["0°", "90°", "180°", "270°"]
figures.product_table(turned_digits.numpy(), group.product.numpy(), turns)
# %% [markdown]
# A group can move many things: digits, feature maps, positions. How it moves them is its *action*.
# On an image $f$, a function of pixels $x$, the element $g$ acts like this:
#
# $$(g \cdot f)(x) = f(g^{-1} x) .$$
#
# The new image at $x$ is the old one at the place that $g$ moves to $x$. Acting twice is acting with the product:

# %%
for g in range(group.order):
    for h in range(group.order):
        twice = act(group, g, act(group, h, digit))
        assert torch.equal(twice, act(group, int(group.product[g, h]), digit))
print("g·(h·f) = (gh)·f for all g and h")

# %% [markdown]
# Add mirrors, and the group has eight elements. It is called $D_4$: four turns (0 to 3), and each of them after a
# left-right mirror (4 to 7). Now the order matters:

# %%
mirrors = dihedral(4)
print("first the mirror, then a quarter turn: element", mirrors.product[1, 4].item())
print("first a quarter turn, then the mirror: element", mirrors.product[4, 1].item())

# %% [markdown]
# A layer $f$ is **equivariant** when turning before it and turning after it give the same: $f(r \cdot x) = r \cdot f(x)$
# for each element $r$. We measure how far it is from that with the *equivariance error*, the largest
# difference in units of the largest output:
#
# $$\max_r \frac{\max |f(r \cdot x) - r \cdot f(x)|}{\max |f(x)|} .$$
#
# All parameters are drawn at random. What holds for random parameters holds before, during and after
# training. We compute in double precision, so that "exact" means an error below $10^{-10}$.

# %% [markdown]
# ## Content alone: too much symmetry
#
# Attention without positions sees only the content of its tokens. Let $P$ put the tokens into another order.
# Queries, keys and values are made token by token, so they are reordered in the same way. The scores become
#
# $$(PQ)(PK)^\top = P\,(QK^\top)\,P^\top .$$
#
# The softmax works on each row, so it commutes with $P$. In the weighted sum $P^\top$ meets $PV$ and cancels:
#
# $$\operatorname{attention}(PX) = P\,\operatorname{softmax}(QK^\top)\,P^\top P\,V = P\,\operatorname{attention}(X) .$$
#
# This holds for *every* order. A quarter turn of an image is one such order, a shift another, a wild scramble a third:

# %%
torch.manual_seed(0)
attention = MultiHeadAttention(width=8, heads=2).double()
tokens = torch.randn(1, 49, 8).double()  # a 7 × 7 grid, row by row
grid = torch.arange(49).reshape(7, 7)
orders = {
    "a quarter turn": grid.rot90(1).flatten(),
    "a shift, round the border": grid.roll(1, -1).flatten(),
    "a random order": torch.randperm(49),
}
before = attention(tokens, tokens)
for name, order in orders.items():
    after = attention(tokens[:, order], tokens[:, order])
    error = (after - before[:, order]).abs().max() / before.abs().max()
    print(f"{name:26} equivariant: {bool(error < 1e-10)}")
    assert error < 1e-10

# %% [markdown]
# So content alone is equivariant to turns. But it is equivariant to scrambles as well: a digit and its shuffled
# patches have the same features, in another order, and after an average they are the same thing.
# We want positions that break this symmetry, but not all of it.

# %% [markdown]
# ## Absolute positions break shifts, relative ones keep them
#
# An *absolute* encoding adds a vector $p(x)$ to the token at place $x$. A query at $x$ and a key at $y$ then score
#
# $$\langle q(x) + p_q(x),\; k(y) + p_k(y) \rangle .$$
#
# Here $p_q$ and $p_k$ are what the maps to queries and keys make of $p$. (The factor $1/\sqrt d$ of the first chapter stays in the
# code. It changes nothing here, so we leave it out.)
#
# Shift the image by $t$. The content moves, the vectors $p$ stay. The score changes.
#
# A *relative* encoding depends on the offset $y - x$ alone ([Shaw et al., 2018](https://arxiv.org/abs/1803.02155)):
#
# $$\langle q(x), k(y) \rangle + \langle q(x), \rho(y - x) \rangle .$$
#
# Here a shift changes nothing, because $(y + t) - (x + t) = y - x$.
# We let every pixel attend to a window of $5 \times 5$ pixels around it, and shift a random image by one pixel:

# %%
plane = cyclic(1)  # the group with one element: nothing but positions
relative = LocalGroupSelfAttention(
    plane, channels=3, heads=2, head_dim=4, window=5, lifting=True, backend="reference"
).double()
absolute = AbsolutePosition(3, 11, 11).double()
nn.init.normal_(absolute.table)

image = torch.randn(1, 3, 11, 11).double()
shifted = image.roll(1, -1)
layers = {
    "absolute positions": lambda x: relative(absolute(x)),
    "relative positions alone": relative,
}
for name, layer in layers.items():
    difference = layer(shifted) - layer(image).roll(1, -1)
    inside = difference[..., 3:-3, 3:-3].abs().max()  # far from the border
    error = inside / layer(image).abs().max()
    print(
        f"{name:26} error under a shift: {'exact' if error < 1e-10 else f'{error:.0%}'}"
    )
    assert (error < 1e-10) == (layer is relative)

# %% [markdown]
# We leave out the pixels near the border: there the window reaches out of the image, where there is nothing to shift in.
# From here on all encodings are relative, and shifts are done with.

# %% [markdown]
# ## Why a turn still breaks it
#
# Now turn the image by $r$. The query at $x$ moves to $rx$, the key at $y$ to $ry$. Their offset turns too:
#
# $$ry - rx = r(y - x) .$$
#
# So the encoding is asked for $\rho(r(y - x))$ where it was asked for $\rho(y - x)$. These are two different vectors.
# A key to the right of its query is now above it, and "right" and "above" were learned apart.

# %%
as_map = lambda x: relative(x)[:, :, 0]  # one pose: an image of features
error = equivariance_error(as_map, image, group)
print(f"relative positions, error under quarter turns: {error:.0%}")
assert error > 0.01

# %% [markdown]
# ## The repair: let the group act on the encoding
#
# The encoding needs to know from which side it is looked at. So we compute the output four times, once for each
# element $v$, called a *pose*. The pose $v$ sees an offset as someone does who is turned by $v$: as
# $v^{-1}(y - x)$. This is the **lifting layer**:
#
# $$L(x, v) = W \sum_{y} \operatorname{softmax}_y\big[\langle q(x), k(y)\rangle
# + \langle q(x), \rho(v^{-1}(y - x))\rangle\big]\, \mathrm{val}(y) .$$
#
# It takes an image and gives a *lifted feature map*: a function of a place and a pose. We show in four steps that it is
# equivariant, and check each of them.
#
# **Step 1.** Queries, keys and values are made pixel by pixel. They turn along with the image: for $f' = r \cdot f$ we
# have $q'(x) = q(r^{-1}x)$, and the same for $k$ and $\mathrm{val}$.

# %%
lifting = LocalGroupSelfAttention(
    group, channels=3, heads=2, head_dim=4, window=5, lifting=True, backend="reference"
).double()
for parameter in lifting.parameters():
    nn.init.normal_(parameter, std=0.5)
r = 1  # a quarter turn
step = (
    (lifting.qkv(act(group, r, image)) - act(group, r, lifting.qkv(image))).abs().max()
)
print(f"step 1 holds: {bool(step < 1e-10)}")
assert step < 1e-10

# %% [markdown]
# **Step 2.** Put this into the formula. The sum runs over keys $y$ in the window of $x$. Write $y = r y'$ and sum over
# $y'$ instead. A sum does not mind, as long as the turned window is the same set of places. A square is, after quarter
# turns.

# %%
window = seen_offsets(plane, 5, 5, False, torch.float64, torch.device("cpu"))[
    0
]  # (x, y) of 25 places
moved = window @ group.matrices[r].T
order = torch.cdist(moved, window).argmin(-1)  # where each place goes
print(
    f"step 2, the turned window is the window: {sorted(order.tolist()) == list(range(25))}"
)
assert torch.allclose(moved, window[order]) and sorted(order.tolist()) == list(
    range(25)
)

# %% [markdown]
# **Step 3.** What the encoding is asked for becomes
#
# $$v^{-1}(r y' - x) = v^{-1} r\,(y' - r^{-1}x) = (r^{-1}v)^{-1}(y' - r^{-1}x) .$$
#
# So the pose $v$ sees a turned offset just as the pose $r^{-1}v$ saw the old one. This is a statement about offsets
# alone, hence true for *any* function $\rho$: no weight has to have a special form.

# %%
seen = seen_offsets(
    group, 5, 5, False, torch.float64, torch.device("cpu")
)  # pose, place, (x, y)
back = group.product[group.inverse[r]]  # v → r⁻¹v
step = (seen[:, order] - seen[back]).abs().max()
encoded = lifting.position(seen)  # ρ of what each pose sees
also = (encoded[:, order] - encoded[back]).abs().max()
print(
    f"step 3 holds for offsets: {bool(step < 1e-10)}, for their encodings: {bool(also < 1e-10)}"
)
assert step < 1e-10 and also < 1e-10

# %% [markdown]
# **Step 4.** Put together, every term under the sum for $(x, v)$ is the old term for $(r^{-1}x, r^{-1}v)$:
#
# $$L'(x, v) = L(r^{-1}x, r^{-1}v) .$$
#
# The output turns in the plane, *and* its poses are permuted. This is how a group acts on lifted maps.
# It is called the *regular representation*.

# %%
error = equivariance_error(lifting, image, group)
print(f"step 4, lifting is equivariant: {error < 1e-10}")
assert error < 1e-10

# %% mystnb={"figure": {"name": "fig-lifting", "caption": "One channel of a lifting layer with random weights, for a digit and for the digit turned by 90 degrees. The maps of the second row are those of the first, turned, and each stands one pose further to the right; the last comes round to the front. Nothing is lost, and nothing is computed anew."}, "image": {"alt": "Two rows. The first shows a digit and four feature maps, one for each pose. The second shows the turned digit and the same four maps, turned and moved on by one pose."}}
eye = LocalGroupSelfAttention(
    group, channels=1, heads=2, head_dim=4, window=7, lifting=True, backend="reference"
).double()
torch.manual_seed(3)
for parameter in eye.parameters():
    nn.init.normal_(parameter)
nn.init.normal_(eye.position.out.weight, std=3)  # poses that differ visibly
pictures = torch.cat([digit, act(group, 1, digit)])
maps = eye(pictures)[:, 0].detach()
figures.lifted_maps(pictures[:, 0].numpy(), maps.numpy(), ["upright", "turned by 90°"])
# %% [markdown]
# ## What a pose sees
#
# The code needs only one thing for this: the table of offsets as each pose sees them. It is small enough to be looked
# at. Each place of a window has a row and a column, counted from the center. A pose finds them turned:

# %% mystnb={"figure": {"name": "fig-index-maps", "caption": "The row and the column, in pixels from the center, that each pose of C4 finds at each place of a window of 5 × 5 pixels. Pose 0 sees the window as it is. Every further pose sees it turned by 90 degrees more: what was a row becomes a column."}, "image": {"alt": "Two rows of four tables with the numbers minus two to two. In the upper row the numbers grow downwards, then to the right, then upwards, then to the left; in the lower row they do so one step ahead."}}
figures.index_maps(2 * seen.numpy(), turns)
# %% [markdown]
# For $D_4$, eight poses see eight different windows. The last four see them in a mirror:

# %% mystnb={"figure": {"name": "fig-index-maps-mirrors", "caption": "The same for four of the eight poses of D4: two turns, and the same two turns after a mirror. Next to the same turn without a mirror, the signs of the columns are swapped."}, "image": {"alt": "Two rows of four tables. The last two columns mirror the first two."}}
seen_in_mirror = seen_offsets(mirrors, 5, 5, False, torch.float64, torch.device("cpu"))
some = [0, 1, 4, 5]
figures.index_maps(
    2 * seen_in_mirror[some].numpy(), ["0°", "90°", "mirror", "mirror, then 90°"], some
)
# %% [markdown]
# ## Deeper: learned encodings
#
# What do encodings look like after training? We train a small network for a moment: a lifting layer, one group layer
# (below), and an average. It has the form of the released networks of
# [Romero and Cordonnier (2021)](https://arxiv.org/abs/2010.00977) and
# [Xu et al. (2023)](https://arxiv.org/abs/2306.06722): one small network $\rho_1$ encodes the row of an offset, another
# one $\rho_2$ encodes its column, and the score gets the sum
# $\langle q_1, \rho_1(\text{row})\rangle + \langle q_2, \rho_2(\text{column})\rangle$.

# %%
torch.manual_seed(0)
net = GroupAttentionNet(
    GroupAttentionNetConfig(
        image_size=14,
        channels=8,
        heads=1,
        window=7,
        blocks=(0, 1),
        expansions=(1, 1),
        crops=(0,),
        query_pose="diagonal",
        readout="mean",
        score_scale="head_dim",
        norm_eps=1e-5,
        backend="reference",
    )
)
small = F.avg_pool2d(as_float(digits.train.images[:1000]), 2)  # 14 × 14 pixels
labels = digits.train.labels[:1000]
optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
losses = []
for _ in range(20 if mode == "quick" else 60):
    batch = torch.randint(len(small), (16,))
    loss = F.cross_entropy(net(small[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(
    f"loss (nats), first 5 steps: {np.mean(losses[:5]):.2f}, last 5 steps: {np.mean(losses[-5:]):.2f}"
)

# %% [markdown]
# We take one query, from the middle of a digit, and draw what its offsets add to the score in each pose.

# %%
lift = net.lifting.eval()
window7 = seen_offsets(group, 7, 7, False, torch.float32, torch.device("cpu"))
with torch.no_grad():
    q, _, _ = rearrange(
        lift.qkv(small[:1, :, None]),
        "1 (part d) 1 row column -> part d (row column)",
        part=3,
    )
    query = lift.scale * q[:, small[0, 0].flatten().argmax()]  # at the brightest pixel
    terms = rearrange(
        query * lift.position(window7),
        "pose (row column) (part d) -> part pose row column d",
        row=7,
        part=2,
    ).sum(-1)
by_row, by_column = terms.numpy()

# %% mystnb={"figure": {"name": "fig-encodings", "caption": "What positions add to the score of one query, in the small network trained above, for every pose; the cross is the query. Top: from the row of an offset. Middle: from its column. Bottom: their sum, which is all that the attention sees. It is the same picture four times, turned."}, "image": {"alt": "Three rows of four maps: horizontal or vertical stripes in the first two rows, and their sum, a pattern in the plane, in the third. From pose to pose the maps turn by 90 degrees."}}
figures.encodings(
    {"row": by_row, "column": by_column, "row + column": by_row + by_column}, turns
)
# %% [markdown]
# The network learned one encoding, not four. The other three come from it by turning: the weights are shared among poses.

# %%
combined = torch.from_numpy(by_row + by_column)
same = all(
    torch.allclose(combined[pose], combined[0].rot90(pose), atol=1e-5)
    for pose in range(4)
)
print(f"the combined encoding of pose v is that of pose 0, turned by v: {same}")
assert same

# %% [markdown]
# ## From pose to pose: the group layer
#
# After lifting, the input of the next layer has poses itself. A query now has a place $x$ and a pose $g$, a key has $y$
# and $m$, and the output has $x$ and $v$. Keys in different poses should be told apart, so the score gets one more term,
# a vector $e$ from a table of learned vectors. An index $G[v, g, m]$ says which one:
#
# $$\begin{aligned}
# \mathrm{out}(x, v) &= W \sum_g \sum_{m,\,y} \operatorname{softmax}_{(m,y)}[s]\; \mathrm{val}(y,m) , \\
# s &= \langle q(x,g), k(y,m)\rangle + \langle q(x,g), \rho(v^{-1}(y-x))\rangle + \langle q(x,g), e(G[v,g,m])\rangle .
# \end{aligned}$$
#
# Turn the input by $r$: now $f'(x, g) = f(r^{-1}x, r^{-1}g)$. We go through the same steps as before, with $y = r y'$,
# $m = r m'$, $g = r g'$.
#
# - The first term is the old one, at $(r^{-1}x, g')$ and $(y', m')$.
# - The second is the old one for the pose $r^{-1}v$, by step 3.
# - The third is $e(G[v, rg', rm'])$. It should be the old one for the pose $r^{-1}v$, which is $e(G[r^{-1}v, g', m'])$.
#
# Write $v$ for $r^{-1}v$ and drop the primes. The layer is equivariant, whatever its weights are, exactly when
#
# $$\boxed{G[rv, rg, rm] = G[v, g, m] \quad\text{for all } r, v, g, m.}$$
#
# One choice leaps to the eye: the pose of the key as seen from the pose of the query, $g^{-1}m$. Then
# $(rg)^{-1}(rm) = g^{-1} r^{-1} r\, m = g^{-1}m$. It can be read off the product table, which is also known as the
# *Cayley* table, for every group there is:

# %%
table = mirrors.product[mirrors.inverse]  # [g, m] → g⁻¹m
assert torch.equal(cayley_index(mirrors)[0], table)
for r in range(mirrors.order):
    p = mirrors.product[r]  # g → rg
    assert torch.equal(table[p][:, p], table)
print("(rg)⁻¹(rm) = g⁻¹m for every r in D4")

# %% [markdown]
# ## Three tables under the test
#
# The released code of both papers computes $G$ with shifts and flips. Written as formulas for $C_n$:
#
# | code | $G[v, g, m]$ for $C_n$, modulo $n$ | after turning all three by $r$ |
# |---|---|---|
# | GSA-Nets | $m + v - g$ | $m + v - g + r$: not the same |
# | GE-ViT | $2g - m - v$ | $2g - m - v$: the same |
# | Cayley table (ours) | $m - g$ | $m - g$: the same |
#
# For $D_n$ the formulas have more cases; `e2vit.groups` has them. A picture needs no formula. We draw the table as a cube
# that is cut into slices, beside it the cube read at $rv$, $rg$, $rm$, and mark what differs.

# %% mystnb={"figure": {"name": "fig-index-cubes-c4", "caption": "Three index cubes for C4 and their copies turned by r = 1, a quarter turn. Each cell holds the number of the vector that is added; crosses mark cells that differ. In the table of GSA-Nets all of them do. That of GE-ViT and that from the Cayley table are unchanged."}, "image": {"alt": "Three rows, each with four slices of a cube on the left and on the right. All cells of the upper right cube are crossed out, none of the others."}}
tables = {"GSA-Nets": gsa_index, "GE-ViT": gevit_index, "Cayley": cayley_index}
p = group.product[1]
cubes = {
    f"{name}, C4": (index(group).numpy(), index(group)[p][:, p][:, :, p].numpy())
    for name, index in tables.items()
}
figures.index_cubes(cubes)
# %% [markdown]
# Does the table of GE-ViT hold for turns and mirrors together, the group that its title is about?

# %% mystnb={"figure": {"name": "fig-index-cubes-d4", "caption": "Index cubes for D4 and their copies turned by r = 1. Each square is one slice v, with g downwards and m to the right; shades are entries of the table. Every entry of the table of GE-ViT changes. The one from the Cayley table stays as it is."}, "image": {"alt": "Two rows, each with eight slices on the left and on the right. In the upper right cube all cells carry crosses; in the lower right cube none does."}}
p = mirrors.product[1]
cubes = {
    f"{name}, D4": (index(mirrors).numpy(), index(mirrors)[p][:, p][:, :, p].numpy())
    for name, index in tables.items()
    if name != "GSA-Nets"
}
figures.index_cubes(cubes)
# %% [markdown]
# The picture is about tables. Do layers follow it? We build one group layer for each table and each group, draw all
# parameters at random, and measure the equivariance error. GSA-Nets count their poses the other way round, so we try
# both ways of counting and print the smaller error. $C_8$ has eighth turns, for which pixels have to be
# interpolated; here only its quarter turns are tried.

# %%
print(f"{'':6}" + "".join(f"{name:>12}" for name in tables))
for some_group in (cyclic(2), cyclic(4), cyclic(8), dihedral(1), dihedral(4)):
    row = ""
    for index in tables.values():
        layer = LocalGroupSelfAttention(
            some_group,
            channels=3,
            heads=1,
            head_dim=4,
            window=3,
            index=index,
            backend="reference",
        ).double()
        torch.manual_seed(0)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.5)
        x = torch.randn(1, 3, some_group.order, 5, 5).double()
        other_way = lambda x: layer(x[:, :, some_group.inverse])[
            :, :, some_group.inverse
        ]
        error = min(
            equivariance_error(f, x, some_group, exact_elements(some_group))
            for f in (layer, other_way)
        )
        row += f"{'exact' if error < 1e-10 else f'{error:.1%}':>12}"
        assert (error < 1e-10) == is_diagonal_invariant(index(some_group), some_group)
    print(f"{some_group!s:6}{row}")

# %% [markdown]
# In every cell the layer is exact when its table meets the criterion, and far from it when it does not. An
# assertion in the cell checks this.
#
# - The table of **GSA-Nets**, as released, fails for every group here.
# - The table of **GE-ViT**, as released, is right for turns alone ($C_n$) and for a mirror alone ($D_1$). It fails for
#   turns and mirrors together ($D_4$).
# - The **Cayley table** is right for all.
#
# Nothing else in the layers is at fault. With the vectors $e$ set to zero, all three are exact:

# %%
for name, index in tables.items():
    layer = LocalGroupSelfAttention(
        mirrors,
        channels=3,
        heads=1,
        head_dim=4,
        window=3,
        index=index,
        backend="reference",
    ).double()
    nn.init.zeros_(layer.element)
    x = torch.randn(1, 3, mirrors.order, 5, 5).double()
    other_way = lambda x: layer(x[:, :, mirrors.inverse])[:, :, mirrors.inverse]
    error = min(equivariance_error(f, x, mirrors) for f in (layer, other_way))
    print(f"{name:10} D4 without e: {'exact' if error < 1e-10 else f'{error:.1%}'}")
    assert error < 1e-10

# %% [markdown]
# ## Pooling hides the fault
#
# A classifier ends in an invariant step. It averages over positions and takes the largest value over poses.
# A common test turns an image and compares the class scores. We do the same with untrained networks of the released
# form, and compare with the error of the feature map just before pooling:

# %%
x = digit[..., :28, :28]
for name, index in tables.items():
    torch.manual_seed(0)
    net = (
        GroupAttentionNet(
            GroupAttentionNetConfig(
                image_size=x.shape[-1],
                channels=8,
                heads=2,
                window=5,
                blocks=(0, 2),
                expansions=(1, 1),
                crops=(0, 0),
                index=index,
                readout="mean",
                norm_eps=1e-5,
                value_dropout=0.0,
                backend="reference",
            )
        )
        .double()
        .eval()
    )
    before_pooling = lambda x: net.stages(x)["stage_classes"]
    other_way = lambda x: before_pooling(x)[:, :, group.inverse]
    map_error = min(
        equivariance_error(f, x, group) for f in (before_pooling, other_way)
    )
    logit_error = invariance_error(net, x, group)
    shown = [
        "exact" if error < 1e-10 else f"{error:.2%}"
        for error in (map_error, logit_error)
    ]
    print(f"{name:10} map before pooling: {shown[0]:>7}    logits: {shown[1]:>7}")

# %% [markdown]
# An average over all positions and a maximum over poses mix what was put into the wrong place. What is left at the end
# is far smaller than the fault itself. So test the layers one by one, in double precision, with random parameters. A small error is
# not zero: zero looks like "exact".

# %% [markdown]
# ## Deeper: what "steerable" buys, and what it does not
#
# An image is turned by 45 degrees. $C_4$ has no element for this, $C_8$ has. Is a layer over $C_8$ equivariant to
# eighth turns? Three things stand in the way:
#
# - **The image is resampled.** Turned pixels fall between pixels. Only quarter turns (and mirrors) permute them.
# - **The offsets leave the grid.** A pose at 45 degrees asks for encodings at places where no pixel is. This alone is harmless: $\rho$ is a
#   function and answers anywhere. That is what "steerable" means here.
# - **The window changes.** A square turned by 45 degrees is another set of pixels. A disc is nearly the same set.

# %% mystnb={"figure": {"name": "fig-index-maps-c8", "caption": "What poses 0, 1 and 2 of C8 find at each place of a window of 5 × 5 pixels. Pose 1 is turned by 45 degrees: its rows and columns are no whole numbers, and at the corners they lie outside the window of pose 0."}, "image": {"alt": "Two rows of three tables. The tables in the middle hold fractions, the others whole numbers from minus two to two."}}
eight = cyclic(8)
seen_by_eight = seen_offsets(eight, 5, 5, False, torch.float64, torch.device("cpu"))
figures.index_maps(2 * seen_by_eight[:3].numpy(), ["0°", "45°", "90°"])
# %% [markdown]
# We measure it. A lifting layer and a group layer with random parameters, then an average over poses, give one map in
# the plane. It should turn with the digit. The error is the mean square of the difference, as a root, in
# units of the spread of the map, within a disc around the center. We average over three draws of the parameters.
# For comparison: the digit itself, turned there and back, which shows what resampling alone costs.

# %%
degrees = np.arange(0, 91, 15)
settings = {
    "one pose": (cyclic(1), "square"),
    "C4, square window": (cyclic(4), "square"),
    "C8, square window": (cyclic(8), "square"),
    "C8, disc window": (cyclic(8), "disc"),
}
side = digit.shape[-1]
place = torch.arange(side) - (side - 1) / 2
disc = place[:, None] ** 2 + place**2 < (side / 2 - 4) ** 2  # clear of the border
errors = {name: np.zeros(len(degrees)) for name in settings}
draws = 1 if mode == "quick" else 3
for name, (some_group, shape) in settings.items():
    for seed in range(draws):
        torch.manual_seed(seed)
        common = dict(
            heads=1, head_dim=4, window=5, window_shape=shape, backend="reference"
        )
        model = nn.Sequential(
            LocalGroupSelfAttention(
                some_group, 1, out_channels=4, lifting=True, **common
            ),
            LocalGroupSelfAttention(some_group, 4, query_pose="diagonal", **common),
        ).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        with torch.no_grad():
            upright = model(digit).mean(2)
            for k, angle in enumerate(degrees.tolist()):
                expected = rotate(upright, angle)[..., disc]
                found = model(rotate(digit, angle)).mean(2)[..., disc]
                spread = expected - expected.mean(-1, keepdim=True)
                error = (
                    (found - expected).square().mean() / spread.square().mean()
                ).sqrt()
                errors[name][k] += error.item() / draws
there_and_back = [
    (
        (rotate(rotate(digit, angle), -angle) - digit)[..., disc].square().mean()
        / digit[..., disc].var()
    )
    .sqrt()
    .item()
    for angle in degrees.tolist()
]
errors["digit, there and back"] = np.array(there_and_back)
for name, error in errors.items():
    print(
        f"{name:22} at 45°: {error[3]:.0%}    at 90°: {'exact' if error[-1] < 1e-10 else f'{error[-1]:.0%}'}"
    )

# %% mystnb={"figure": {"name": "fig-steerable", "caption": "Equivariance error of two layers with random parameters against the turn of the input, on a logarithmic scale; points at the lower border are exact. With one pose, the layers are exact at 0 degrees only. With C4 and C8 they are exact at 90 degrees too, and nowhere in between."}, "image": {"alt": "Five curves between 0 and 90 degrees. All but one fall to the lower border at both ends."}}
figures.errors_by_angle(degrees.tolist(), errors)
# %% [markdown]
# Read the picture at three places.
#
# - At **90 degrees**, $C_4$ and $C_8$ are exact. One pose is not: this is the repair at work.
# - At **45 degrees**, $C_4$ has no pose for the turn. $C_8$ has one, and its error is smaller. A disc as window makes it
#   smaller again. It is not zero: it is of the size of what resampling does to the digit itself.
# - **In between**, no layer has a pose for the turn. For $C_8$ the error is about the same there: the next pose is near.
#
# So poses between the quarter turns can make the error there smaller. They do not make it zero: on a grid of pixels the
# only exact turns are quarter turns.

# %% [markdown]
# ## Deeper: the size rule
#
# Even quarter turns can be lost, in a layer that nobody suspects. A pool with a stride, or a convolution whose filters turn along, looks
# at every second place. When its windows leave a remainder at the border, the turned map is sampled at other places.
# Let the map have side $n$, padding $p$, the kernel side $k$ and the stride $s$. The layer is exact if and only if
#
# $$(n + 2p - k) \bmod s = 0 .$$
#
# An average pool has the same weight everywhere, so nothing but the size can break it:

# %%
print("size kernel padding stride   rule       measured")
for size, kernel, padding, stride in (
    (28, 4, 0, 4),
    (28, 2, 0, 2),
    (28, 5, 2, 2),
    (7, 2, 0, 2),
    (7, 3, 0, 2),
):
    x = torch.randn(1, 2, size, size).double()
    error = equivariance_error(
        lambda x: F.avg_pool2d(x, kernel, stride, padding), x, group
    )
    rule = is_exact(size, kernel, padding, stride)
    print(
        f"{size:4}{kernel:7}{padding:8}{stride:7}   {'exact' if rule else 'broken':10} "
        f"{'exact' if error < 1e-10 else f'off by {error:.0%}'}"
    )
    assert rule == (error < 1e-10)

# %% [markdown]
# This concerns a published network. For images of tumor tissue (PatchCamelyon), both papers end with a
# 2 × 2 pool on a 7 × 7 map, as released. The last line but one of the table is that pool. Whatever the index is,
# such a network is not equivariant to quarter turns.

# %%
for name, config in (
    ("as released", GroupAttentionNetConfig.pcam()),
    ("without the last pool", GroupAttentionNetConfig.pcam_corrected()),
):
    print(
        f"PatchCamelyon network, {name}: obeys the size rule: {config.obeys_size_rule}"
    )

# %% [markdown]
# ## What to remember
#
# - A group is a set of moves that can be composed and undone. Its product table is all there is to know.
# - Attention to content alone is equivariant to every reordering. That is too much.
# - Absolute positions break shifts. Relative ones keep them, and break turns.
# - Let each pose $v$ see offsets as $v^{-1}(y - x)$, and turns are kept too, whatever the encoding is.
# - Between poses, everything depends on one table: $G[rv, rg, rm] = G[v, g, m]$. The index of $g^{-1}m$ meets it for
#   every group. The released tables do so for some groups or for none.
# - Pooling hides such a fault. Test layers, not logits.
# - On pixels, quarter turns and mirrors are exact if the windows of every pool and every stride fit the map without a
#   remainder. More poses can make other turns better, never exact.
