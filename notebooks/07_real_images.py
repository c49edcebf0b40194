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
# # Does it help on real images?
#
# **Digits have an up. Galaxies and land seen from above have none. Does built-in symmetry pay there, and from how many
# training images on does it stop paying?**
#
# With the same augmentation, the hybrid over $D_4$ is ahead of a plain vision transformer on galaxies, at every share of the
# training images, and on land with a tenth; with a third or all of the land images no difference is shown. Without
# augmentation and with a tenth of the images it is far ahead on both. Built-in symmetry is not the
# only way. With a tenth of the land images the plain transformer gains as much when its answers are averaged over eight
# views. A plain convolutional network does as well as the hybrid on galaxies and far better on land: there the kind of
# network matters more than the symmetry.
#
# A network that turns with its input need not learn each pattern in eight poses. That should matter most where images
# are few. This chapter compares seven networks on two small data sets, fold by fold. The last section
# sums up in two sentences, computed from the records.

# %% tags=["hide-input"]
import numpy as np
import torch
from e2vit.actions import act
from e2vit.data import as_float
from e2vit.experiments import default_mode
from e2vit.groups import dihedral
from e2vit.metrics import accuracy_by_angle
from e2vit_book import results
from e2vit_book.real import figures, measure
from e2vit_book.recap import figures as recap
from e2vit_book.tables import table
from IPython.display import Markdown, display

# %% tags=["parameters", "hide-input"]
mode = default_mode()  # "quick" | "report" | "train"

# %% [markdown]
# ## Two data sets without an up
#
# **Galaxies.** MiraBest holds radio galaxies of two classes
# ([Porter and Scaife, 2023](https://arxiv.org/abs/2305.11108)). In class FR I the jets fade outwards; in class FR II they
# end in bright lobes. We use the 792 images of the first public batches. Six of them are blank and left out, 786 remain.
# The central 128 × 128 pixels are reduced to 64 × 64. The later release has 1,256 images, so published accuracies do not
# compare.
#
# **Land.** RSSCN7 holds 2,800 aerial scenes of seven kinds
# ([Zou et al., 2015](https://doi.org/10.1109/LGRS.2015.2475299)), reduced to 64 × 64.
#
# This page shows neither: the files of both sets state no license. Both can be loaded, and looked at, in one line:
#
# ```python
# from e2vit.data import load
# splits = load("mirabest/fold0")  # "rsscn7/fold0", "eurosat/fold0"; folds 0 to 4
# ```
#
# Wherever this chapter needs a picture, it draws a galaxy: a core, two jets, and noise.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-real-drawn", "caption": "Drawn galaxies, 64 × 64 pixels. The jets of FR I fade outwards, those of FR II end in bright lobes. The angle is random: nothing in such an image says where up is. Drawn by the cell above."}, "image": {"alt": "Eight small gray images of elongated sources at different angles, four that fade outwards and four that end in two bright spots."}}
drawn = measure.drawn_galaxies(8, seed=7)
figures.tiles(drawn.images, [("FR I", "FR II")[label] for label in drawn.labels])

# %% [markdown]
# ## One protocol
#
# The images are cut into five folds, the same for every network. A run trains on 70 % of the images, and is tested on
# 20 % that no other fold tests. The remaining 10 % are for validation. Every network trains for about half a minute of one
# thread, so a faster network does more updates. Only the learning rate was chosen for each network, out of the same three,
# on the validation images of one fold of the land data; the hybrid over $D_8$ uses that of the hybrid over $D_4$.
#
# - **Hybrid** over $D_4$, the eight symmetries of the square (chapter 5); for galaxies also over $D_8$.
# - **Octic ViT**, explained below.
# - **G-CNN**: group convolutions over $D_4$, no attention.
# - **CNN** and **ViT**: without a group.
# - **Symmetrized ViT**: the trained ViT, its logits averaged over eight views (chapter 4). It needs no training.

# %% tags=["hide-input"]
measured = results.benchmark("real")
seconds = measured["seconds_of_an_update"]
table(measure.costs(seconds))

# %% [markdown]
# *Seconds* are those of all updates on one thread; all networks were timed in turn in one process.
#
# ## Poses kept, or poses transformed
#
# The hybrid stores a feature for each of the eight poses. The *octic ViT* stores the same eight numbers after a change of
# basis, a Fourier transform on the group $D_4$
# ([Nordström et al., 2025](https://arxiv.org/abs/2505.15441)). In the new basis a turn no longer permutes eight numbers.
# It multiplies four of them by a sign, each with its own pattern of signs ($A_1$, $A_2$, $B_1$, $B_2$), and rotates two
# pairs of them as vectors of the plane ($E$).
#
# A linear map that commutes with the group cannot mix parts that transform differently (Schur's lemma). So every matrix
# of the transformer falls into small blocks: it keeps 1/8 of its weights and 3/16 of its multiplications. Attention
# sums $q \cdot k$ over all parts, which no turn changes. The activation function, GELU, is applied to the poses: one
# product with an 8 × 8 matrix returns to the numbers that a turn permutes, another leads back.
#
# | | hybrid | octic ViT |
# |---|---|---|
# | a feature is | a number for each pose | a number for each irreducible part |
# | a turn | permutes poses | changes signs, rotates pairs |
# | linear maps | one matrix for each relative pose | one small matrix for each kind of part |
# | groups | any finite group | $D_4$ |
# | input | convolutions | patches, as in a ViT |
#
# Against the plain ViT of the same width, 12 blocks, on one thread:

# %% tags=["hide-input"]
table(
    [
        {
            "image": f"{row['image_size']} × {row['image_size']}",
            "width": row["width"],
            "weights": f"1/{row['weights']['plain'] / row['weights']['octic']:.1f}",
            "operations": f"1/{row['operations']['plain'] / row['operations']['octic']:.1f}",
            "images per second": f"{row['forward']['images_per_second']['octic']:.3g}",
            "against plain, forward": f"{row['forward']['ratio']:.2g} times",
            "training": f"{row['training']['ratio']:.2g} times",
        }
        for row in results.benchmark("octic")["rows"]
    ]
)

# %% [markdown]
# The time falls by less than the operations. Two likely reasons: small matrices run at a lower rate than large
# ones, and attention itself gets no cheaper.
#
# ## What a turn does to the answers
#
# We train five of the networks for a moment on drawn galaxies that lie nearly flat, without augmentation. So none of them
# has ever seen an upright galaxy. Then we turn 60 others.

# %% tags=["hide-input"]
models, galaxies = measure.trained_on_drawn(mode)
degrees = torch.arange(0, 361, 45 if mode == "quick" else 15)
accuracies = {
    name: np.array(accuracy_by_angle(model, galaxies, degrees.tolist()))
    for name, model in models.items()
}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-real-angle", "caption": "Accuracy on 60 drawn galaxies at every angle; training showed angles within 15 degrees of 0 only. The four networks with D4 built in, or averaged over, are as good at 90 degrees as at 0; CNN and ViT are not. Between quarter turns every network has to generalize. Trained and computed in the cells above."}, "image": {"alt": "Line chart over 0 to 360 degrees. Four lines have a period of 90 degrees and return to their first value, two fall around 90 and 270 degrees."}}
recap.accuracy_by_angle(degrees.numpy(), accuracies, chance=0.5)

# %% tags=["hide-input"]
table(measure.turned(models, galaxies))

# %% [markdown]
# The *invariance error* is the largest change of a logit under any element of $D_4$, divided by the largest logit, in
# double precision. Around $10^{-15}$ is rounding.
#
# Real galaxies and land lie at every angle, so a plain network sees turned ones in training. Does it learn to give one
# answer to one image? We count the test images of all folds whose answer some turn or mirror changes:

# %% tags=["hide-input"]
table(measure.turned_real(measured["turned"]))

# %% [markdown]
# Augmentation lowers the count of the plain networks, and does not bring it to zero. The others change no answer: the
# symmetry is built in, or averaged over.
#
# The same holds inside the networks. The maps below show the attention of one query in the last block. In the hybrid,
# the map after the turn is the turned map: it covers the same parts of the galaxy. In the ViT, it does not.

# %% tags=["hide-input"]
galaxy = as_float(galaxies.images[1])
turned = act(dihedral(4), 1, galaxy[None])[0]
maps = {
    name: measure.attention_before_and_after(models[name], galaxy, (3, 4))
    for name in ("hybrid", "ViT")
}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-real-attention", "caption": "A drawn galaxy at 0 and at 90 degrees, and the attention of one query in the last block (mean over heads and poses, bright is much). The lower map of the hybrid is its upper map, turned. That of the ViT is another one. Computed in the cell above."}, "image": {"alt": "Two rows of three small images: the galaxy, the attention of the hybrid, the attention of the ViT. In the second row the first two are turned by 90 degrees."}}
figures.attention([galaxy[0], turned[0]], maps)

# %% [markdown]
# ## Accuracy against amount of data
#
# Now the real images. All networks see training images augmented by $D_4$, so that the plain ones can learn the symmetry
# that the others have.

# %% tags=["hide-input"]
found = {name: measure.accuracies(data, "d4") for data, name in measure.DATA.items()}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-real-share", "caption": "Test accuracy against the share of the training images used (galaxies 550, land 1,960), with 95 % Student intervals over five folds. Augmentation by D4. From the committed records."}, "image": {"alt": "Two panels, galaxies and land. Accuracy of up to seven networks at 10, 33 and 100 percent of the training images, with error bars."}}
figures.by_share(found)

# %% tags=["hide-input"]
for data, name in measure.DATA.items():
    display(Markdown(f"**{name.capitalize()}**, test accuracy:"))
    display(
        table(
            measure.rows(data, "d4")
            + measure.pretrained(results.benchmark("foreign"), data)
        )
    )

# %% [markdown]
# The last two rows are a new linear layer on a network that others trained on a million photographs (chapter 4).
#
# Does augmentation replace the built-in symmetry? The columns name what a training image undergoes and the share of the
# images used:

# %% tags=["hide-input"]
for data, name in measure.DATA.items():
    display(Markdown(f"**{name.capitalize()}**, test accuracy by augmentation:"))
    display(table(measure.augmented(data)))

# %% [markdown]
# To a network that is invariant to $D_4$, an image and its turns are the same image. Augmentation by $D_4$ therefore
# changes nothing in its training but the random numbers: compare the columns *none* and *D4* of the hybrid. The other
# invariant networks are left out here. The plain transformer gains most with a tenth of the images. With all of them the
# CNN gains on galaxies and loses on land. Any angle shows no gain over $D_4$. On land it does harm to hybrid and CNN, and
# the hybrid falls behind the plain transformer; between quarter turns it blurs the image and leaves black corners, which
# may be why. Paired by fold, without augmentation:

# %% tags=["hide-input"]
display(Markdown(measure.verdict(augment="none")))

# %% [markdown]
# Intervals of two networks that overlap do not settle which is better, since both vary with the fold. A fold that is hard
# for one is hard for the other. So we subtract, fold by fold:

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-real-paired", "caption": "Hybrid over D4 minus plain ViT, paired by fold, for each share of the images and augmentation: mean and 95 % Student interval over five folds. Gray where the interval holds zero. From the committed records."}, "image": {"alt": "Dot plot with horizontal intervals around a vertical line at zero, one row for each data set, share of the images and augmentation."}}
figures.paired_differences(
    {
        f"{name}, {measure.percent(share)}, {words}": measure.difference(
            data, share, augment
        )
        for data, name in measure.DATA.items()
        for share in measure.FRACTIONS
        for augment, words in measure.AUGMENTATIONS.items()
    }
)

# %% tags=["hide-input"]
table(measure.differences())

# %% [markdown]
# *Detectable* is the true difference that this many folds would have shown with a probability of 80 %. A smaller one
# may not be shown. Folds share training images, so these intervals are somewhat too narrow
# ([Nadeau and Bengio, 2003](https://doi.org/10.1023/A:1024068626366)).
#
# Hybrid and ViT differ in more than their symmetry: the hybrid begins with convolutions. The G-CNN and the CNN are built alike,
# but differ in width and number of updates, since a group convolution takes longer. For them, also augmented by $D_4$ and paired by fold:

# %% tags=["hide-input"]
display(Markdown(measure.verdict("gcnn-d4", "cnn")))

# %% [markdown]
# ## The answer

# %% tags=["hide-input"]
display(Markdown(f"**{measure.verdict()}**"))
display(
    Markdown(
        f"Both with augmentation by D4. The training of all runs, trials included, takes {measure.hours(seconds):.1f} "
        "hours of one thread."
    )
)

# %% [markdown]
# [Ông and Bökman (2026)](https://arxiv.org/abs/2606.27864) trained networks equivariant to groups from $C_1$ to $D_6$ on
# other aerial images, PatternNet. They report a clear gain at 10 % of the data and no distinguishable difference at 100 %.
# PatternNet has more than ten times the images of RSSCN7, so a tenth of it is about all of ours.
