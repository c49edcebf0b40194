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
# # Recap on vision transformers
#
# **How does a vision transformer classify an image, and what happens when the image turns?**
#
# It cuts the image into patches, makes a token of each, adds a learned position, and mixes the tokens by attention, a
# weighted sum whose weights are computed from the tokens. Nothing in it relates a digit to the turned digit.
# Trained on upright digits it fails on turned ones; trained on turned digits it is right more often, but its answer still
# changes with the angle.
#
# Each part comes as a formula, as the lines that compute it, and as a picture. You need PyTorch, and no group theory yet.

# %% tags=["hide-input"]
import math

import numpy as np
import torch
import torch.nn.functional as F
from e2vit import metrics
from e2vit.capture import capture
from e2vit.data import as_float, embedded, load
from e2vit.experiments import default_mode, records, run
from e2vit.models import TransformerConfig, ViT
from e2vit.models.transformer import (
    MultiHeadAttention,
    shift_matrix,
    sinusoidal_positions,
)
from e2vit_book.drawing import drawing
from e2vit_book.exercise import Exercise
from e2vit_book.recap import figures as recap
from e2vit_book.recap import tasks
from e2vit_book.recap.tasks import Lesson
from einops import rearrange
from IPython.display import Markdown
from torch import nn

# %% tags=["parameters", "hide-input"]
mode = default_mode()  # "quick" | "report" | "train"

# %% [markdown]
# ## Attention is a weighted sum
#
# What does *it* mean here?
#
# > The animal did not cross the street because **it** was tired.
#
# > The animal did not cross the street because **it** was wide.
#
# The last word decides. A network that encodes *it* has to use the other words, some more than others. In attention each
# word is a vector, called a *token*, and the new vector of token $i$ is a weighted sum over all tokens $j$:
#
# $$\text{new}_i = \sum_j a_{ij}\, v_j, \qquad a_{ij} \ge 0, \qquad \sum_j a_{ij} = 1 .$$
#
# The weights $a_{ij}$ are computed from the sentence. Three learned linear maps make of each token a *query*, a *key* and a
# *value* $v_j$. The dot product of a query with a key is a *score*, and a softmax over the keys makes the scores of a token
# into weights.
#
# A toy network shows it: it is trained to turn *it* into the noun that is meant. Its language has eight living beings,
# eight places, and eight properties: four fit beings, four fit places. The values $v_j$ are the plain word vectors, so
# the weights alone carry the answer. A quarter of all pairs of nouns is held out for the test.

# %%
untrained, _ = tasks.train_pronouns(Lesson(steps=0))
lesson = Lesson(steps=100 if mode == "quick" else 300, batch_size=64)
reader, curve = tasks.train_pronouns(lesson)
unseen = tasks.sentences(held_out=True)
right = reader(unseen.words, unseen.it).argmax(-1) == unseen.noun
Markdown(f"Right on {right.float().mean():.1%} of {len(right)} held-out sentences.")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-pronoun", "caption": "The weights of the sum that becomes the new vector of *it* (framed), in the toy network trained above. Before training the weight is spread over all words; after training nearly all of it lies on the noun that is meant. One changed word moves it to the other noun."}, "image": {"alt": "Four sentences. Each word is shaded by its attention weight. Before training all shades are pale; after training the noun that is meant is dark."}}
texts = [
    "the animal did not cross the street because it was tired",
    "the animal did not cross the street because it was tired",
    "the animal did not cross the street because it was wide",
    "because it was wide the street did not suit the animal",
]
networks = {"before training": untrained, "after training": reader}
names = ["before training"] + ["after training"] * 3
places = [text.split().index("it") for text in texts]
weights = []
for text, name, place in zip(texts, names, places, strict=True):
    words = tasks.to_numbers(text)[None]
    weight = networks[name].weights(words, it=torch.tensor([place]))
    weights.append(weight[0].detach().numpy())
recap.shaded_sentences([text.split() for text in texts], weights, places, names)
# %% [markdown]
# In this toy the weights *are* the explanation. In a large network many layers mix their tokens, and the weights of one
# layer are a hint at most.
#
# ## Scaled dot-product attention, in several heads

# %% tags=["hide-input"]
drawing(
    "attention",
    "Left: scaled dot-product attention. Right: multi-head attention, which computes "
    "it several "
    "times side by side on shorter queries, keys and values.",
)

# %% [markdown]
# All tokens at once, with $d$ the length of a key:
#
# $$\operatorname{attention}(Q, K, V) = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}}\right) V .$$
#
# One softmax gives one set of weights. Several *heads* $i$ use their own, shorter queries, keys and values; a
# last linear map joins the results:
#
# $$\begin{aligned}
# \operatorname{head}_i &= \operatorname{attention}(X W^Q_i,\; X W^K_i,\; X W^V_i),\\
# \operatorname{multihead}(X) &= [\operatorname{head}_1, \operatorname{head}_2, \dots]\, W^O .
# \end{aligned}$$
#
# In code, with the weights of torch's own layer, so that the results can be compared:

# %%
generator = torch.Generator().manual_seed(0)
theirs = nn.MultiheadAttention(embed_dim=12, num_heads=3, batch_first=True)
x = torch.randn(2, 6, 12, generator=generator)  # 2 sequences, 6 tokens, 12 features

projected = x @ theirs.in_proj_weight.T + theirs.in_proj_bias
q, k, v = rearrange(
    projected, "batch token (p head d) -> p batch head token d", p=3, head=3
)
scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
heads = rearrange(weights @ v, "batch head token d -> batch token (head d)")
ours = theirs.out_proj(heads)

assert torch.allclose(ours, theirs(x, x, x)[0], atol=1e-6)

# %% [markdown]
# ## Deeper: why divide by √d?
#
# The dot product of two random vectors grows with their length. Large scores make the softmax nearly one-hot, and then its
# gradient is nearly zero. The division keeps the standard deviation of the scores at 1:

# %%
spread = {}
for d in (16, 64, 256):
    a, b = torch.randn(2, 10_000, d, generator=generator)
    spread[d] = (a * b).sum(-1).std().item()
Markdown(
    "Standard deviation of q·k, then of q·k / √d: "
    + ", ".join(f"{s:.1f} and {s / d**0.5:.2f} for d = {d}" for d, s in spread.items())
    + "."
)

# %% [markdown]
# ## Where is a token?
#
# A sum does not depend on the order of its terms. Mix up the tokens, and attention returns the same vectors, mixed up:

# %%
layer = MultiHeadAttention(width=12, heads=3)
order = torch.tensor([3, 0, 5, 1, 4, 2])
mixed = layer(x[:, order], x[:, order])
assert torch.allclose(mixed, layer(x, x)[:, order], atol=1e-6)

# %% [markdown]
# This symmetry is the subject of the next chapter. In a sentence, however, order carries meaning.
# So a vector that depends on the place, a *positional encoding*, is added to each token.
# The original transformer uses waves. Place $t$ becomes
#
# $$\begin{gathered}
# p_t = \big(\sin \omega_0 t,\; \cos \omega_0 t,\; \sin \omega_1 t,\; \cos \omega_1 t,\; \dots\big), \\
# \omega_i = 10000^{-2i/d} .
# \end{gathered}$$

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-sinusoids", "caption": "Sinusoidal positional encodings, 32 features for 60 places. Top: each row is the vector of one place. Bottom: four of the columns. Fast waves tell neighbors apart, slow ones near from far."}, "image": {"alt": "At the top, a color map of the encoding, striped finely on the left and coarsely on the right. Below, four waves of growing wavelength."}}
positions = sinusoidal_positions(length=60, d=32)
recap.sinusoids(positions.numpy())
# %% [markdown]
# To move by $s$ places is to multiply by one matrix, the same at every place:
#
# $$\begin{gathered}
# p_{t+s} = M_s\, p_t \quad \text{for all } t, \\
# M_s = \begin{pmatrix} R(\omega_0 s) & & \\ & R(\omega_1 s) & \\ & & \ddots \end{pmatrix} ,
# \end{gathered}$$
#
# where $R$ turns a pair (sine, cosine) by an angle, by the addition theorem of sine and cosine. So
# the matrices of two shifts multiply to the matrix of both, and the dot product of two encodings depends on their
# distance alone.

# %%
three = shift_matrix(places=3, d=32)
products = (positions[3:] * positions[:-3]).sum(-1)
assert (positions[3:] - positions[:-3] @ three.T).abs().max() < 1e-12
assert (three @ shift_matrix(4, 32) - shift_matrix(7, 32)).abs().max() < 1e-12
assert products.diff().abs().max() < 1e-12

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-shift", "caption": "A shift by three places in three of the sixteen pairs (sine, cosine). Both points of a circle turn by the same angle; the slower the wave, the smaller the angle."}, "image": {"alt": "Three circles, each with two points before and two points after the shift, joined by arrows along the circle. The arrows become shorter from left to right."}}
some = torch.tensor([0, 6])
before, after = positions[some].numpy(), positions[some + 3].numpy()
recap.shift_as_rotation(before, after, pairs=[1, 3, 5])
# %% [markdown]
# Moves that can be composed and undone, here the shifts, form a *group*. A *representation* writes each move as a matrix,
# here $M_s$, so that composing moves is multiplying matrices.
#
# ## Deeper: the original transformer
#
# The transformer was made for translation ([Vaswani et al., 2017](https://arxiv.org/abs/1706.03762)).
# Its *encoder* reads a sentence, its *decoder* writes another one, word by word.

# %% tags=["hide-input"]
drawing(
    "transformer",
    "The original transformer, from bottom to top. Cross-attention joins the two "
    "columns: its queries come "
    "from the decoder, its keys and values from the encoder. In masked "
    "self-attention a token reads only what "
    "was written before it. Around each part the input is added to the output.",
)

# %% [markdown]
# All parts together, on a task small enough for one processor core: read a sequence of three to eight digits, write it
# backwards. Short sequences are padded, and a mask hides the padding. A tenth of all sequences is held out for the test.

# %%
config = TransformerConfig(width=64, heads=4, depth=1)
lesson = Lesson(steps=60 if mode == "quick" else 600)
transformer, curve = tasks.train_reversal(config, lesson)

generator = torch.Generator().manual_seed(1)
source, target = tasks.reversal_batch(1000, generator, held_out=True)
exact = tasks.exact_match(transformer, source, target)
assert mode == "quick" or exact > 0.99
Markdown(
    f"{exact:.1%} of {len(source)} held-out sequences are reversed without error. The "
    f"loss fell from {curve[0]:.2f} to {curve[-1]:.2g} nats per token."
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-cross-attention", "caption": "Cross-attention of the trained encoder-decoder on a held-out sequence. Each row is a token about to be written, each column a token that was read. The rising diagonal reads the sequence from its end; it was learned from examples alone."}, "image": {"alt": "Four attention maps, one for each head. Dark cells lie along a rising diagonal."}}
longest = (source != tasks.PADDING).sum(-1).argmax()
name = "decoder.blocks.0.cross_attention"
with capture(transformer, [name]) as seen:
    transformer(source[longest, None], target[longest, None, :-1])

words = [*"0123456789", "start", "end"]
read = [words[token] for token in source[longest].tolist()]
written = [words[token] for token in target[longest, 1:].tolist()]
recap.cross_attention(seen.attention[name][0].numpy(), read, written)
# %% [markdown]
# ## From sentences to images
#
# The vision transformer (ViT) keeps the encoder of the original transformer
# ([Dosovitskiy et al., 2021](https://arxiv.org/abs/2010.11929)). Its words are squares of pixels, called *patches*.
# Our images are handwritten digits, each turned by its own random angle, after the data set rotMNIST of
# [Larochelle et al. (2007)](https://doi.org/10.1145/1273496.1273556).

# %% tags=["hide-input"]
splits = embedded("rotmnist") if mode == "quick" else load("rotmnist")
Markdown(
    f"Data: {splits.name}, {splits.origin}; {len(splits.train):,} images for training, "
    f"{len(splits.validation):,} for validation, {len(splits.test):,} for the test."
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-patches", "caption": "Left: a digit of rotMNIST cut into patches of 4 × 4 pixels, numbered by rows. Right: each patch as a row of 16 numbers. This table is the input of the network."}, "image": {"alt": "Left, a digit under a grid of seven by seven patches. Right, the same pixels as a table with 49 rows and 16 columns."}}
digit = as_float(splits.train.images[:1])
recap.patches_and_tokens(digit[0, 0].numpy(), patch_size=4)
# %% [markdown]
# A linear map makes a token of each row, which is a convolution whose stride equals its kernel:

# %%
vit = run("rotmnist/vit", mode=mode)
embed = vit.model.embed  # a convolution

patches = rearrange(digit[0, 0], "(row a) (column b) -> (row column) (a b)", a=4, b=4)
tokens = patches @ rearrange(embed.weight, "d 1 a b -> (a b) d") + embed.bias
as_convolution = rearrange(embed(digit)[0], "d row column -> (row column) d")
assert torch.allclose(tokens, as_convolution, atol=1e-5)

# %% tags=["hide-input"]
drawing(
    "vit",
    "The vision transformer of this book. Every patch becomes a token; all tokens "
    "pass through the blocks "
    "together; their mean is classified. Each block normalizes first.",
)

# %% [markdown]
# The vectors added for the positions are parameters, learned like all others; they begin as waves along rows and
# columns, so that neighbors begin alike. A block that normalizes first is easier to train
# ([Xiong et al., 2020](https://arxiv.org/abs/2002.04745)). An MLP is a small network that works on each token alone.
#
# ## A vision transformer on turned digits
#
# We trained this network on rotMNIST, each image turned by a fresh random angle every time.
# Ten thousand images are few for a vision transformer, so we use two further techniques:
# each step hides three tenths of the patches ([Liu et al., 2022](https://arxiv.org/abs/2208.07220)), and the matrices of the
# blocks are trained by *Muon* ([Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/)), which orthogonalizes
# each update. What each contributes was not measured.

# %% tags=["hide-input"]
record = vit.record
Markdown(
    f"{len(record['curve'])} epochs, {record['parameters']:,} parameters; the epoch "
    "is chosen on the validation images. "
    f"Test accuracy {records.summarize([record])} on {record['test']['count']:,} "
    f"images ({record['data']['origin']}); "
    "one seed, so the interval counts images only."
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-vit-curve", "caption": "Training of the ViT on rotMNIST. Left: mean loss on augmented training images. Right: accuracy on the validation images; the dot is the epoch that was kept."}, "image": {"alt": "The training loss falls and the validation accuracy rises, fast at first and slowly later."}}
loss = np.array([epoch["loss"] for epoch in record["curve"]])
accuracy = np.array([epoch["accuracy"] for epoch in record["curve"]])
recap.learning_curve(loss, accuracy, record["chosen_epoch"])
# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-confusion", "caption": "The ViT on the first images of the rotMNIST test set. Rows: true digit. Columns: answer. Shaded: errors."}, "image": {"alt": "A ten by ten table of counts. Large counts lie on the diagonal; the others are errors."}}
some = splits.test[:5000]
answers = metrics.predict(vit.model, some.images).argmax(-1)
counts = torch.bincount(some.labels * 10 + answers, minlength=100).reshape(10, 10)
recap.confusion_matrix(counts.numpy())
# %% tags=["hide-input"]
errors = int((answers != some.labels).sum())
Markdown(
    f"Of {errors} errors on {len(some):,} images, {int(counts[6, 9] + counts[9, 6])} "
    "take a 6 for a 9 or a 9 for a 6, "
    "which a half turn can make alike."
)

# %% [markdown]
# ## Deeper: what the positions have become
#
# The positions began as waves along rows and columns. After training:

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-positions", "caption": "Learned positions of the ViT. Each small map belongs to the patch marked by a circle and shows the cosine similarity of its position vector with those of all patches."}, "image": {"alt": "Forty-nine small maps on a seven by seven grid, each bright at its own patch."}}
position = vit.model.position[0].detach().numpy()
recap.positional_similarity(position, side=vit.model.config.side)
# %% [markdown]
# Under random turns a stroke is equally likely at all places at one distance from the center, a ring. Are
# positions on the same ring more similar than others, and more than at the start?

# %% tags=["hide-input"]
side = vit.model.config.side
row, column = np.array(np.divmod(np.arange(side**2), side)) - (side - 1) / 2
distance = np.hypot(row, column)  # from the center, in patches
same_ring = np.abs(distance[:, None] - distance) < 0.5
pairs = ~np.eye(side**2, dtype=bool)
at_start = ViT(vit.model.config).position[0].detach().numpy()
rings = {}
for name, vectors in (("at the start", at_start), ("learned", position)):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit @ unit.T
    rings[name] = (
        similar[pairs & same_ring].mean(),
        similar[pairs & ~same_ring].mean(),
    )
Markdown(
    "Mean similarity of two places: "
    + "; ".join(
        f"{name}, {same:.2f} on the same ring and {other:.2f} on different rings"
        for name, (same, other) in rings.items()
    )
    + "."
)

# %% [markdown]
# ## What happens when the input turns?
#
# When the image turns, a stroke meets other positions with other vectors, and inside a patch the turned pixels meet other
# weights of the embedding. Whatever relates a digit to its turned copy has to be learned, angle by angle.
#
# We compare two networks of this shape, one trained on upright digits only, the other on digits at all angles. Both
# classify the same upright test digits of MNIST, turned by a growing angle. The recipes differ in length (four epochs
# and eighty), and the first network saw more digits, so compare the shape of the curves, not their height. rotMNIST draws its digits from all of MNIST, so
# we leave out every test digit that either network met in training.

# %% tags=["hide-input"]
upright = run("mnist/vit", mode=mode)
get = embedded if mode == "quick" else load
mnist, before_turning = get("mnist").test, get("rotmnist_upright")

met = torch.cat([before_turning.train.images, before_turning.validation.images]).numpy()
met = {image.tobytes() for image in met}
unseen = [
    k for k, image in enumerate(mnist.images.numpy()) if image.tobytes() not in met
]
digits = mnist[torch.tensor(unseen)][:1000]

# %%
degrees = np.arange(-180, 181, 45 if mode == "quick" else 15)
models = {"ViT, upright": upright.model, "ViT": vit.model}
accuracies = {
    name: np.array(metrics.accuracy_by_angle(model, digits, degrees.tolist()))
    for name, model in models.items()
}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-angle", "caption": "Accuracy of two plain ViTs against the rotation of the input: upright test digits of MNIST that neither met in training, turned. One was trained on upright digits, the other on digits at all angles, one seed each. Bands: 95 % Wilson intervals over the images."}, "image": {"alt": "The model trained upright is best at zero degrees and falls far on both sides. The model trained on all angles is nearly level."}}
recap.accuracy_by_angle(degrees.astype(float), accuracies, count=len(digits))
# %% tags=["hide-input"]
answers = torch.stack(
    [
        metrics.predict(vit.model, digits.images, degrees=angle).argmax(-1)
        for angle in (0, 90, 180, 270)
    ]
)
changed = (answers != answers[0]).any(0).double().mean().item()
low, high = metrics.wilson(changed, len(digits))
Markdown(
    f"{len(digits):,} digits. "
    + "; ".join(
        f"{name}: {values[degrees == 0].item():.1%} at 0°, {values.min():.1%} at its "
        "worst angle"
        for name, values in accuracies.items()
    )
    + f". Of the ViT trained on all angles, {changed:.1%} [{low:.1%}, {high:.1%}] of "
    "the answers change "
    "under at least one quarter turn, where no pixel is interpolated."
)

# %% [markdown]
# The network trained on upright digits fails on turned ones. The accuracy of the other hardly changes,
# but its answers may: it can call a digit a 4 at one angle and a 9 at the next. A model whose *architecture* commutes
# with rotations gives the same answer by construction, trained or not. Where exactly the transformer loses the
# symmetry is the subject of the [next chapter](02_positional_encodings).
#
# ## What to remember
#
# - Attention is a weighted sum whose weights are computed from the tokens. Without positions it commutes with every
#   reordering of its tokens.
# - A shift acts on sinusoidal encodings by a matrix: a representation of the group of shifts.
# - A vision transformer is an encoder whose words are patches, with learned positions. It can learn to classify turned
#   digits from turned digits, but its answer changes with the angle.
#
# ## Deeper: three exercises
#
# Each cell fails until the dots are replaced by an answer that passes its check. Solutions follow.
#
# **1.** Write `attention(q, k, v)` for tensors (token, d) that equals torch's `scaled_dot_product_attention` to $10^{-6}$.

# %%
q, k, v = torch.randn(3, 7, 8, generator=generator)
exercise1 = Exercise(
    lambda attention: torch.allclose(
        attention(q, k, v),
        F.scaled_dot_product_attention(q[None], k[None], v[None])[0],
        atol=1e-6,
    )
)
exercise1(...)

# %% [markdown]
# **2.** Give the matrix that moves a sinusoidal encoding of 32 features by five places *back*.

# %%
exercise2 = Exercise(
    lambda matrix: (positions[:-5] - positions[5:] @ matrix.T).abs().max() < 1e-10
)
exercise2(...)

# %% [markdown]
# **3.** Give an `order` of the 49 patches of a 28 × 28 image. Permuting the *tokens* by it should turn the grid of
# patches by 90° counter-clockwise and leave each patch itself upright.

# %%
grid = torch.arange(49).reshape(7, 7)
exercise3 = Exercise(lambda order: torch.equal(grid.rot90(1), order.reshape(7, 7)))
exercise3(...)

# %% [markdown]
# ### Deeper: solutions
#
# **1.** The formula of the chapter in one line. **2.** The matrices multiply as the shifts compose, and each is orthogonal, so the
# inverse of a shift is the transpose. **3.** Turn the numbers of the patches.

# %% tags=["solution"]
exercise1(lambda q, k, v: (q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ v)
exercise2(shift_matrix(5, 32).T)
exercise3(torch.arange(49).reshape(7, 7).rot90(1).flatten())
