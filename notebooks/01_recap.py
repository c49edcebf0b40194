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
# This chapter builds the plain vision transformer from its parts.
# Each part comes as a formula, then as the lines that compute it, then as a picture.
# At the end we turn the input and watch the model fail. That failure is what the rest of the book is about.
#
# You need to know PyTorch. You need no group theory yet.

# %%
import math

import numpy as np
import torch
import torch.nn.functional as F
from e2vit import metrics
from e2vit.capture import capture
from e2vit.data import as_float, embedded, load
from e2vit.experiments import default_mode, run
from e2vit.models import TransformerConfig, ViT
from e2vit.models.transformer import (
    MultiHeadAttention,
    shift_matrix,
    sinusoidal_positions,
)
from e2vit_book.recap import diagrams
from e2vit_book.recap import figures as recap
from e2vit_book.recap import tasks as sequences
from e2vit_book.recap.tasks import Lesson
from einops import rearrange
from torch import nn

# %% tags=["parameters"]
mode = default_mode()  # "quick" | "report" | "train"

# %% [markdown]
# ## Deeper: the original transformer
#
# The transformer was made for translation ([Vaswani et al., 2017](https://arxiv.org/abs/1706.03762)).
# It has two columns. The *encoder* reads a sentence. The *decoder* writes another one, word by word.
#
# A *token* is a vector that stands for one word. Both columns pass tokens upwards through the same few parts:
#
# - **Self-attention** lets every token read from all tokens of its own sequence.
# - **Masked self-attention** does the same, but a token sees only what was written before it.
# - **Cross-attention** lets the decoder read from the encoder.
# - An **MLP** works on each token alone.
# - Around each part goes a shortcut: the input is added to the output, and the sum is normalized.

# %% mystnb={"figure": {"name": "fig-encoder-decoder", "caption": "The original transformer. Tokens move upwards. The encoder (left) reads; the decoder (right) writes. Only cross-attention joins the two: its queries come from the decoder, its keys and values from the encoder."}, "image": {"alt": "Two columns of boxes. Left, the encoder with self-attention and MLP. Right, the decoder with masked self-attention, cross-attention and MLP. An arrow leads from the encoder into the cross-attention."}}
diagrams.encoder_decoder(depth=6)
# %% [markdown]
# ## Attention is a weighted sum
#
# What does *it* mean here?
#
# > The animal did not cross the street because **it** was tired.
#
# > The animal did not cross the street because **it** was wide.
#
# One word at the end decides. A network that encodes *it* has to look at the other words, and at some more than at
# others. Attention does just that. Each word is a vector, called a *token*. The new vector of a token $i$ is a weighted sum
# over all tokens $j$:
#
# $$\text{new}_i = \sum_j a_{ij}\, v_j, \qquad a_{ij} \ge 0, \qquad \sum_j a_{ij} = 1 .$$
#
# The weights $a_{ij}$ are not fixed. They are computed from the sentence. Each token gives a *query* (what it looks for), a *key*
# (what it offers) and a *value* $v_j$ (what it passes on). The dot product of a query with a key is a *score*. A softmax over
# the keys makes the scores of a token into weights.
#
# We train a toy to see this: a small network that turns *it* into the noun that is meant.
# Its language has eight living beings, eight places, and eight properties: four fit the former, four the latter. The values $v_j$ are the plain word vectors, so the weights alone carry the answer.
# A quarter of all pairs of nouns is never shown in training. We test on these.

# %%
untrained, _ = sequences.train_pronouns(Lesson(steps=0))
lesson = Lesson(steps=100 if mode == "quick" else 300, batch_size=64)
reader, curve = sequences.train_pronouns(lesson)
unseen = sequences.sentences(held_out=True)
right = reader(unseen.words, unseen.it).argmax(-1) == unseen.noun
print(f"right on {right.float().mean():.1%} of {len(right)} unseen sentences")

# %% mystnb={"figure": {"name": "fig-pronoun", "caption": "The weights of the sum that becomes the new vector of *it* (framed), in a toy network trained in the cell above. Before training, the weight is spread over all words. After training, nearly all of it lies on the noun that is meant, in whichever order the words stand. One changed word moves it to the other noun."}, "image": {"alt": "Four sentences. Each word is shaded by its attention weight. Before training all shades are pale; after training the noun that is meant is dark."}}
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
    words = sequences.to_numbers(text)[None]
    weight = networks[name].weights(words, it=torch.tensor([place]))
    weights.append(weight[0].detach().numpy())
recap.shaded_sentences([text.split() for text in texts], weights, places, names)
# %% [markdown]
# This toy is built so that the weights *are* the explanation.
# In a large network many layers mix their tokens, and the weights of one layer are a hint at most.

# %% [markdown]
# ## Deeper: scaled dot-product attention
#
# Where do the weights come from? Each token makes three vectors, by three learned linear maps:
#
# - a **query** $q$: what it looks for,
# - a **key** $k$: what it offers,
# - a **value** $v$: what it gives when it is chosen.
#
# A query is compared with every key by a dot product. The softmax makes the scores positive with sum 1:
#
# $$\operatorname{attention}(Q, K, V) = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}}\right) V ,$$
#
# with $d$ the length of a key. In code, checked against torch's own:

# %%
generator = torch.Generator().manual_seed(0)
q = torch.randn(5, 8, generator=generator)  # 5 queries
k = torch.randn(7, 8, generator=generator)  # 7 keys
v = torch.randn(7, 3, generator=generator)  # a value for each key

scores = q @ k.T / math.sqrt(q.shape[-1])
weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
mixed = weights @ v

theirs = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
difference = (mixed - theirs).abs().max()
print(f"a row of weights adds up to {weights.sum(-1)[0]:.3f}")
print(f"same as torch: {difference < 1e-6}")
assert difference < 1e-6

# %% [markdown]
# Why divide by $\sqrt{d}$? The dot product of two random vectors grows with their length.
# Large scores make the softmax pick one key and ignore the rest, and then almost no gradient flows.
# The division keeps the scores at size 1:

# %%
for d in (16, 64, 256):
    a, b = torch.randn(2, 10_000, d, generator=generator)
    products = (a * b).sum(-1)
    print(
        f"d = {d:3}: standard deviation of the dot products {products.std():4.1f}, "
        f"divided by √d {products.std() / math.sqrt(d):.1f}"
    )

# %% [markdown]
# ## Deeper: several heads
#
# One softmax can look at one kind of thing. So attention is done several times side by side.
# Each *head* $i$ has its own shorter queries, keys and values; a last linear map joins the results:
#
# $$\operatorname{head}_i = \operatorname{attention}(X W^Q_i,\; X W^K_i,\; X W^V_i),$$
#
# $$\operatorname{multihead}(X) = [\operatorname{head}_1, \operatorname{head}_2, \dots]\, W^O .$$
#
# Ten lines again. The weights are taken from torch's own layer, so that the results can be compared.

# %%
theirs = nn.MultiheadAttention(embed_dim=12, num_heads=3, batch_first=True)
x = torch.randn(2, 6, 12, generator=generator)  # 2 sequences, 6 tokens, 12 features

projected = x @ theirs.in_proj_weight.T + theirs.in_proj_bias
q, k, v = rearrange(
    projected, "batch token (p head d) -> p batch head token d", p=3, head=3
)
weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
heads = rearrange(weights @ v, "batch head token d -> batch token (head d)")
ours = theirs.out_proj(heads)

difference = (ours - theirs(x, x, x)[0]).abs().max()
print(f"same as torch: {difference < 1e-6}")
assert difference < 1e-6

# %% [markdown]
# ## Where is a token?
#
# A sum does not know the order of its terms. Mix up the tokens, and attention returns the same vectors, mixed up:

# %%
layer = MultiHeadAttention(width=12, heads=3)
x = torch.randn(2, 6, 12, generator=generator)  # 2 sequences, 6 tokens, 12 features
order = torch.tensor([3, 0, 5, 1, 4, 2])
difference = (layer(x[:, order], x[:, order]) - layer(x, x)[:, order]).abs().max()
print(f"attention of mixed tokens = mixed attention of tokens: {difference < 1e-6}")
assert difference < 1e-6

# %% [markdown]
# That is a symmetry, and the next chapter makes much of it. For a sentence it is a defect: order carries meaning.
# The cure is to add to each token a vector that tells its place, a *positional encoding*.
# The original transformer uses waves. Place $t$ becomes
#
# $$p_t = \big(\sin \omega_0 t,\; \cos \omega_0 t,\; \sin \omega_1 t,\; \cos \omega_1 t,\; \dots\big),
# \qquad \omega_i = 10000^{-2i/d} .$$
#
# The first features turn fast and tell neighbors apart. The last ones turn slowly and tell near from far.

# %% mystnb={"figure": {"name": "fig-sinusoids", "caption": "Sinusoidal positional encodings, 32 features for 60 places. Left: each row is the vector of one place. Right: four of the columns, from a fast wave to one that hardly bends."}, "image": {"alt": "Left, a color map of the encoding, striped finely on the left and coarsely on the right. Right, four waves of growing wavelength."}}
positions = sinusoidal_positions(length=60, d=32)
recap.sinusoids(positions.numpy())
# %% [markdown]
# These waves have a property that we shall meet again. To move by $s$ places is to multiply by a matrix, the same one at
# every place:
#
# $$p_{t+s} = M_s\, p_t \quad \text{for all } t, \qquad
# M_s = \begin{pmatrix} R(\omega_0 s) & & \\ & R(\omega_1 s) & \\ & & \ddots \end{pmatrix} .$$
#
# Each $R$ turns one pair (sine, cosine) by its own angle. This is the addition theorem of sine and cosine.
# Two consequences: the matrices of two shifts multiply to the matrix of both, and the dot product of two
# encodings depends on their distance alone.

# %%
three = shift_matrix(places=3, d=32)
errors = {
    "p[t+3] = M p[t]": positions[3:] - positions[:-3] @ three.T,
    "M(3) M(4) = M(7)": three @ shift_matrix(4, 32) - shift_matrix(7, 32),
    "p[t]·p[t+3] is the same for all t": (positions[3:] * positions[:-3])
    .sum(-1)
    .diff(),
}
for claim, error in errors.items():
    print(f"{claim:35} holds to 1e-12: {error.abs().max() < 1e-12}")
    assert error.abs().max() < 1e-12

# %% mystnb={"figure": {"name": "fig-shift", "caption": "A shift by three places, seen in three of the sixteen pairs (sine, cosine). Both points of a circle turn by the same angle; the slower the wave, the smaller the angle. A shift of the sequence acts on its encoding as a rotation."}, "image": {"alt": "Three circles, each with two points before and two points after the shift, joined by arrows along the circle. The arrows become shorter from left to right."}}
some = torch.tensor([0, 6])
before, after = positions[some].numpy(), positions[some + 3].numpy()
recap.shift_as_rotation(before, after, pairs=[1, 3, 5])
# %% [markdown]
# A *group* is nothing more than this: moves that can be composed and undone, here the shifts.
# A *representation* writes each move as a matrix, so that composing moves is multiplying matrices, here $M_s$.

# %% [markdown]
# ## Deeper: the transformer at work
#
# Now all parts together, on a task small enough for one processor core: read a sequence of digits, write it backwards.
# Sequences have three to eight digits. Short ones are filled up with padding, which a mask hides.
# A tenth of all sequences is set aside and never shown in training. We test on these.

# %%
config = TransformerConfig(width=64, heads=4, depth=1)
lesson = Lesson(steps=60 if mode == "quick" else 600)
transformer, curve = sequences.train_reversal(config, lesson)

generator = torch.Generator().manual_seed(1)
source, target = sequences.reversal_batch(1000, generator, held_out=True)
exact = sequences.exact_match(transformer, source, target)
print(f"{sum(p.numel() for p in transformer.parameters()):,} parameters")
print(f"{exact:.1%} of {len(source)} unseen sequences are reversed without a mistake")
assert mode == "quick" or exact > 0.99

# %% mystnb={"figure": {"name": "fig-reversal-loss", "caption": "Training loss of the encoder-decoder on reversed digits, trained in the cell above. A blind guess among ten digits and the end mark is the dashed line."}, "image": {"alt": "The loss falls from the level of a blind guess by several orders of magnitude."}}
recap.losses(curve, chance=math.log(11))
# %% [markdown]
# How does it do it? Look at the cross-attention while it writes one of the unseen sequences.

# %% mystnb={"figure": {"name": "fig-cross-attention", "caption": "Cross-attention of the trained encoder-decoder on an unseen sequence. Each row is a token that is about to be written, each column a token that was read. Weight on the rising diagonal means: to write the next digit, look at the one before the last digit looked at. Nobody told the network to do so."}, "image": {"alt": "Four attention maps, one for each head. Dark cells lie along a rising diagonal."}}
longest = (source != sequences.PADDING).sum(-1).argmax()
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
# The original transformer has an *encoder*, which reads, and a *decoder*, which writes. The vision transformer (ViT) keeps the
# encoder alone ([Dosovitskiy et al., 2021](https://arxiv.org/abs/2010.11929)). Its words are squares of pixels, called *patches*.
#
# Our images are handwritten digits, each turned by its own random angle, after the data set of
# [Larochelle et al. (2007)](https://doi.org/10.1145/1273496.1273556), known as rotMNIST.

# %%
splits = embedded("rotmnist") if mode == "quick" else load("rotmnist")
print(f"{splits.name}, {splits.origin}")
print(
    f"{len(splits.train):,} images to train on, {len(splits.validation):,} to choose with, "
    f"{len(splits.test):,} to test"
)

# %% mystnb={"figure": {"name": "fig-patches", "caption": "A digit of rotMNIST cut into patches of 4 × 4 pixels (left), numbered row by row. Right: each patch as a row of 16 numbers. This table is what the network is given."}, "image": {"alt": "Left, a digit under a grid of seven by seven patches. Right, the same pixels as a table with 49 rows and 16 columns."}}
digit = as_float(splits.train.images[:1])
recap.patches_and_tokens(digit[0, 0].numpy(), patch_size=4)
# %% [markdown]
# A linear map makes a token of each row. Libraries write it as a convolution whose stride equals its size.
# The two are the same:

# %%
vit = run("rotmnist/vit", mode=mode)
embed = vit.model.embed  # a convolution

patches = rearrange(digit[0, 0], "(row a) (column b) -> (row column) (a b)", a=4, b=4)
tokens = patches @ rearrange(embed.weight, "d 1 a b -> (a b) d") + embed.bias
as_convolution = rearrange(embed(digit)[0], "d row column -> (row column) d")
same = torch.allclose(tokens, as_convolution, atol=1e-5)
print(f"{tokens.shape[0]} tokens with {tokens.shape[1]} features; same: {same}")
assert same

# %% [markdown]
# Then a vector is added to each token that tells where its patch was. In a ViT these vectors are parameters, learned
# like all others. Ours begin as waves along the rows and the columns, so that neighbors begin alike; training may bend
# them as it likes. Blocks of attention and MLP (a small network that treats each token by itself) follow.
# Each block normalizes first, which makes training easier ([Xiong et al., 2020](https://arxiv.org/abs/2002.04745)).
# At the end the tokens are averaged, and a linear map gives a score for each class.

# %% mystnb={"figure": {"name": "fig-vit", "caption": "The vision transformer of this book on the digit above. Every patch becomes a token; all tokens pass through the blocks together; their mean is classified."}, "image": {"alt": "From left to right: a digit under a grid, six of its patches, their tokens, a block of normalization, self-attention and MLP with two shortcuts, the mean over tokens, a linear map, ten class scores."}}
diagrams.vision_transformer(
    digit[0, 0].numpy(), patch_size=4, depth=vit.model.config.depth
)
# %% [markdown]
# ## A vision transformer on turned digits
#
# We trained this network on turned digits. In training, each image is turned again by a fresh random angle every time.
# Ten thousand images are few for a vision transformer. Two tools were used together. Neither was made for few images, and what
# each of them is worth alone was not measured in full runs:
#
# - Each training step hides three tenths of the patches, drawn anew for every image
#   ([Liu et al., 2022](https://arxiv.org/abs/2208.07220)). The network can't lean on a few of them, and a step computes less.
# - The matrices of the blocks are trained by *Muon* ([Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/)).
#   It replaces the step of a matrix by the nearest one that moves all directions alike, so none of them lags behind.
#
# The epoch to keep was chosen on the validation images. The accuracy on the test images was computed once, at the
# end. It is read from the record of that run, and so is the curve. The other pictures are drawn with its weights.

# %%
record = vit.record
low, high = record["test"]["interval"]
print(f"{record['experiment']}, seed {record['seed']}, {record['data']['origin']}")
print(
    f"trained on {record['device']}: {len(record['curve'])} epochs, "
    f"{record['seconds'] / 60:.0f} minutes, {record['parameters']:,} parameters"
)
print(
    f"test accuracy {record['test']['accuracy']:.2%} on {record['test']['count']:,} images "
    f"(95 % interval {low:.2%} to {high:.2%})"
)

# %% mystnb={"figure": {"name": "fig-vit-curve", "caption": "Training of the plain ViT on rotMNIST (record rotmnist/vit, seed 0). Left: mean loss on augmented training images. Right: accuracy on the validation images; the dot is the epoch that was kept."}, "image": {"alt": "The training loss falls and the validation accuracy rises, fast at first and slowly later."}}
loss = np.array([epoch["loss"] for epoch in record["curve"]])
accuracy = np.array([epoch["accuracy"] for epoch in record["curve"]])
recap.learning_curve(loss, accuracy, record["chosen_epoch"])
# %% [markdown]
# Which digits does it confuse? The first images of the test set tell.

# %% mystnb={"figure": {"name": "fig-confusion", "caption": "Errors of the plain ViT (record rotmnist/vit, seed 0) on the first images of the rotMNIST test set; how many is printed above the figure. Rows: the true digit. Columns: the answer. A turned 6 can be a 9, so some of these errors no model can avoid."}, "image": {"alt": "A ten by ten table of counts. Large counts stand on the diagonal; the others are errors."}}
some = splits.test[:5000]
answers = metrics.predict(vit.model, some.images).argmax(-1)
counts = torch.bincount(some.labels * 10 + answers, minlength=100).reshape(10, 10)
print(f"{(answers != some.labels).sum()} errors on {len(some):,} images")
recap.confusion_matrix(counts.numpy())
# %% [markdown]
# The positions began as waves along rows and columns. What has training made of them?

# %% mystnb={"figure": {"name": "fig-positions", "caption": "Learned positions of the plain ViT (record rotmnist/vit, seed 0). Each small map belongs to the patch marked by a circle and shows how similar its position vector is to those of all patches."}, "image": {"alt": "Forty-nine small maps on a seven by seven grid, each bright at its own patch."}}
position = vit.model.position[0].detach().numpy()
recap.positional_similarity(position, side=vit.model.config.side)
# %% [markdown]
# Each patch resembles itself most, so each place is told apart. A stroke of a digit that is turned at random visits all
# places at the same distance from the center alike. Do these places resemble each other more than others do? The
# waves at the start are the comparison.

# %%
side = vit.model.config.side
row, column = np.array(np.divmod(np.arange(side**2), side)) - (side - 1) / 2
distance = np.hypot(row, column)  # from the center, in patches
same_ring = np.abs(distance[:, None] - distance) < 0.5
pairs = ~np.eye(side**2, dtype=bool)
for name, vectors in (
    ("at the start", ViT(vit.model.config).position[0].detach().numpy()),
    ("learned", position),
):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    print(
        f"{name:12}  mean similarity of two places on the same ring {(unit @ unit.T)[pairs & same_ring].mean():.2f}, "
        f"on different rings {(unit @ unit.T)[pairs & ~same_ring].mean():.2f}"
    )

# %% [markdown]
# Whatever geometry the ViT has learned came from the data. And note what is tied to *this* grid: turn the image, and a stroke meets other positions, with other vectors. Inside a
# patch, the turned pixels meet other weights of the embedding.
# Nothing in the architecture says that the turned digit is the same digit. It has to be learned, angle by angle.

# %% [markdown]
# ## What happens when the input turns?
#
# We compare two networks of this shape. One saw upright digits only. The other saw digits at all angles.
# They were trained by different recipes, four epochs and eighty. So compare the shape of the curves, not their height.
# Both now classify the same upright test digits of MNIST, turned by a growing angle.
#
# One trap first. rotMNIST draws its digits from all of MNIST, training and test images alike. So some test digits
# of MNIST were training digits of the second model, turned. We leave out every digit that either model met in training.

# %%
upright = run("mnist/vit", mode=mode)
get = embedded if mode == "quick" else load
mnist, before_turning = get("mnist").test, get("rotmnist_upright")

met = torch.cat([before_turning.train.images, before_turning.validation.images]).numpy()
met = {image.tobytes() for image in met}
unseen = [
    k for k, image in enumerate(mnist.images.numpy()) if image.tobytes() not in met
]
print(
    f"{len(unseen):,} of {len(mnist):,} test digits of MNIST were met by neither model"
)
digits = mnist[torch.tensor(unseen)][:1000]

# %%
degrees = np.arange(-180, 181, 45 if mode == "quick" else 15)
models = {"trained upright": upright.model, "trained on all angles": vit.model}
accuracies = {
    name: np.array(metrics.accuracy_by_angle(model, digits, degrees.tolist()))
    for name, model in models.items()
}
for name, accuracy in accuracies.items():
    print(
        f"{name:22} at 0°  {accuracy[degrees == 0].item():.1%}, "
        f"mean over the circle {accuracy[:-1].mean():.1%}, worst {accuracy.min():.1%}"
    )

# %% mystnb={"figure": {"name": "fig-angle", "caption": "Accuracy of two plain ViTs against the rotation of the input: upright test digits of MNIST that neither model met in training, turned. One model was trained on upright digits (record mnist/vit), the other on digits at all angles (record rotmnist/vit), both seed 0. Bands: ± 2 standard errors over the images."}, "image": {"alt": "The model trained upright is best at zero degrees and falls far on both sides. The model trained on all angles stays nearly level."}}
recap.accuracy_by_angle(degrees.astype(float), accuracies, count=len(digits))
# %% [markdown]
# The model that was trained upright knows upright digits, and little else.
# The other one was shown every angle, and its accuracy is nearly level. But level accuracy is not the same as the same
# answer: it may still call a digit a 4 at one angle and a 9 at the next. How often does that happen at quarter turns,
# where no pixel is interpolated?

# %%
answers = torch.stack(
    [
        metrics.predict(vit.model, digits.images, degrees=angle).argmax(-1)
        for angle in (0, 90, 180, 270)
    ]
)
changed = (answers != answers[0]).any(0).float().mean()
print(
    f"{changed:.1%} of {len(digits):,} digits get another answer "
    "under at least one quarter turn"
)

# %% [markdown]
# A model whose *architecture* respects rotations gives the same answer by construction, trained or not.
# To build it, we need to know where exactly the transformer loses the symmetry. That is the next chapter.
#
# ## What to remember
#
# - Attention is a weighted sum whose weights are computed from the tokens.
# - Without positions it does not see the order of its tokens. Positional encodings break this symmetry.
# - A shift acts on sinusoidal encodings by a matrix: a representation of the group of shifts.
# - A vision transformer is an encoder whose words are patches, with learned positions.
# - It can learn to classify turned digits when it is shown turned digits. Nothing makes it answer the same at every angle.
