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
# # Post-hoc equivariance
#
# You have a classifier. It was trained, it works, and it changes its mind when the image is turned.
# Must you design another network and train it from scratch?
#
# No. Show the classifier every turned view of the image, and combine what it says.
# The result no longer depends on how the image was turned. One line does it:
#
# ```python
# invariant = Symmetrized(model, cyclic(4))
# ```
#
# This chapter asks two questions. How should the answers be combined? And what does each way cost and gain?

# %%
import copy

import numpy as np
import pandas as pd
import torch
from e2vit import metrics
from e2vit.actions import invariance_error, orbit, rotate
from e2vit.data import as_float, embedded, load
from e2vit.experiments import default_mode, run
from e2vit.groups import cyclic, dihedral
from e2vit.models import Symmetrized
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit.training.fine_tuning import predict, view_features
from e2vit_book.post_hoc import figures as post_hoc
from e2vit_book.post_hoc import measure as comparison
from e2vit_book.post_hoc.measure import REGIMES, SETTINGS
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

# %% tags=["parameters"]
mode = default_mode()  # "quick" | "report" | "train"

# %% [markdown]
# Our classifier is the plain ViT of the first chapter. It was trained on rotated digits.
# Some test images serve for the pictures of this chapter. The tables further down use the first 10,000 digits, or all 840 aerial scenes.

# %%
base = run("rotmnist/vit", mode).model
precise = copy.deepcopy(
    base
).double()  # the same in double precision, to measure what is exact
digits = embedded("rotmnist") if mode == "quick" else load("rotmnist")
test = digits.test[: 60 if mode == "quick" else 1_500]
images = as_float(test.images)
upright = (embedded if mode == "quick" else load)("rotmnist_upright").validation
print(f"{len(test)} test images, {digits.origin}")
print(f"{sum(p.numel() for p in base.parameters()):,} parameters in the base model")

# %% [markdown]
# ## Invariant and equivariant
#
# Write $g\,x$ for the image $x$ after the element $g$ of a group $G$ acted on it, for instance a quarter turn.
# There are two ways to respect the group:
#
# - A map is **equivariant** when turning the input turns the output: $f(g\,x) = g\,f(x)$. A map of features should do so.
# - A map is **invariant** when turning the input changes nothing: $f(g\,x) = f(x)$. A classifier should do so.
#
# Invariance is equivariance with an output that cannot turn. Our ViT has neither. Here is how far it is off, as the
# largest change of a logit over the largest logit:

# %%
sample = images[:16].double()
print(
    f"invariance error of the base under quarter turns: {invariance_error(precise, sample, cyclic(4)):.2f}"
)

# %% [markdown]
# ## The Reynolds operator
#
# Average over the group, and the dependence on the turn is gone:
#
# $$\bar f(x) = \frac{1}{|G|} \sum_{g \in G} f(g\,x).$$
#
# Why? Turn the image by $r$. The sum now runs over $f(g\,r\,x)$. But as $g$ runs through the group, so does $g\,r$:
# the same terms in another order. This average is called the *Reynolds operator*. For classifiers it is known as
# *test-time augmentation*.
#
# Written out, with the orbit of an image (all its views):

# %%
group = cyclic(4)
with torch.no_grad():
    logits = torch.stack(
        [base(view) for view in orbit(group, images[:16])], 1
    )  # (image, view, class)
    by_hand = logits.mean(1)
    wrapped = Symmetrized(base, group, "mean_logits")(images[:16])
print(f"the wrapper computes the same: {torch.allclose(by_hand, wrapped, atol=1e-5)}")
turned = invariance_error(Symmetrized(precise, group), sample, group)
print(f"invariance error now below 1e-10: {turned < 1e-10}")

# %% [markdown]
# The picture shows the whole machine with eight views. The model is the same in every row. Only the last step, how to
# get one answer out of many, differs between the methods of this chapter.

# %% mystnb={"figure": {"name": "fig-post-hoc-pipeline", "caption": "A classifier made invariant. Every view of the image goes through the same model. One rule combines the answers, here the mean of the logits. A quarter turn of the image only changes the order of the rows."}, "image": {"alt": "An image on the left, eight turned copies of it in a column, a box named model beside each, a bar chart of class probabilities beside each box, and arrows into one bar chart on the right."}}
eight = Symmetrized(base, cyclic(8), interpolation="bilinear").eval()
with torch.no_grad():
    seen = eight.view_logits(images[:40])
    p = seen.softmax(-1)
    picked = int(
        p.mean(1).amax(-1).argmin()
    )  # the image on which the views differ most
    views = eight.views(images[picked : picked + 1])[0, :, 0]
    answer = eight.combine(seen)[picked].softmax(-1)
post_hoc.pipeline(
    views.numpy(), p[picked].numpy(), answer.numpy(), [f"{45 * k}°" for k in range(8)]
)
# %% [markdown]
# ## Which views?
#
# Quarter turns and mirrors permute the pixels of a square image. Nothing is lost, so the guarantee is exact.
#
# Other angles fall between the pixels. The image must be interpolated, and the wrapper asks you to say so.
# For 16 views it is then exact for the quarter turns among them, and close for the rest.
# Mirrors are left out for digits: a mirrored 2 is no 2.

# %%
sixteen = cyclic(16)
many = Symmetrized(precise, sixteen, interpolation="bilinear")
quarter = invariance_error(many, sample[:4], cyclic(4))
between = invariance_error(many, sample[:4], sixteen)
print(f"16 views, turned by 90 degrees: below 1e-10: {quarter < 1e-10}")
print(f"16 views, turned by 22.5 degrees: {between:.3f}")

# %% [markdown]
# The wrapper keeps what the views say apart from how it is combined. We compute the logits and features of all views
# once, and let every method work on them.

# %%
every_view = Symmetrized(base, sixteen, interpolation="bilinear").eval()
features = view_features(every_view, test.images)  # (image, view, feature)
with torch.no_grad():
    logits = base.head(features)  # (image, view, class)
print(f"features {tuple(features.shape)}, logits {tuple(logits.shape)}")

# %% [markdown]
# ## Combining logits
#
# These methods need nothing but the model's output: any classifier will do, even one you cannot look into.
# Let $\ell_g$ be the logits of view $g$ and $p_g$ their softmax.
#
# **Mean of logits.** $\frac{1}{|G|}\sum_g \ell_g$. Test-time augmentation, the yardstick for all others.

# %%
averaging = Symmetrized(base, sixteen, "mean_logits", interpolation="bilinear")
mean_logits = averaging.combine(logits)
print(f"right: {(mean_logits.argmax(-1) == test.labels).float().mean():.1%}")

# %% [markdown]
# **Mean of probabilities.** $\frac{1}{|G|}\sum_g p_g$. One view is right, and we do not know which.

# %%
mean_probabilities = logits.softmax(-1).mean(1).log()
same = torch.allclose(
    mean_probabilities, AGGREGATES["mean_probabilities"](logits), atol=1e-4
)
print(f"the formula and the library agree: {same}")

# %% [markdown]
# **Most likely.** $\prod_g p_g$, the product rule: every view is an independent witness.
# Sixteen small numbers multiply to zero, and zeros tie. So we add logarithms: $\sum_g \log p_g$.

# %%
most_likely = logits.log_softmax(-1).sum(1)
same = torch.allclose(most_likely, AGGREGATES["most_likely"](logits), atol=1e-4)
print(f"the formula and the library agree: {same}")

# %% [markdown]
# **Most certain.** The logits of the view whose largest probability is largest. One view decides alone.
# ([Basu et al., 2023](https://arxiv.org/abs/2305.09900), call it *equizero*.)

# %%
surest = logits.softmax(-1).amax(-1).argmax(1)
most_certain = logits[torch.arange(len(logits)), surest]
print(
    f"the formula and the library agree: {torch.equal(most_certain, AGGREGATES['most_certain'](logits))}"
)

# %% [markdown]
# **Maximum of each class.** $\max_g p_g(c)$. It sounds like the former and is another method: each class asks its own
# favorite view, and the answers are then made to add up to one.

# %%
class_maximum = logits.softmax(-1).amax(1).log()
gap = (class_maximum.softmax(-1) - most_certain.softmax(-1)).abs().amax()
print(f"its probabilities differ from those of the former by up to {gap:.2f}")

# %% [markdown]
# **Vote.** Every view has one vote. Ties go to the mean of the probabilities.

# %%
votes = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).sum(1)
vote = AGGREGATES["vote"](logits)
print(
    f"images on which all {sixteen.order} views agree: {(votes.amax(-1) == sixteen.order).float().mean():.1%}"
)

# %% [markdown]
# **Entropy-weighted.** $\sum_g w_g\, p_g$ with weights that fall with the entropy of a view,
# $w = \operatorname{softmax}_g(-H(p_g))$. A view that hesitates counts less.

# %%
p = logits.softmax(-1)
weights = (p * logits.log_softmax(-1)).sum(-1).softmax(1)
entropy_weighted = (weights[..., None] * p).sum(1).log()
print(
    f"weights of the first image between {weights[0].min():.3f} and {weights[0].max():.3f}"
)

# %% [markdown]
# **Lowest energy** (*canonical energy* in the tables). The energy of a view is $-\log \sum_c e^{\ell_g(c)}$. The view with the
# lowest one is taken for the upright one. This is a *canonicalization*: first find a pose, then classify in it. It still
# costs a pass for each view.

# %%
canonical = logits.logsumexp(-1).argmax(1)
same_view = (canonical == surest).float().mean()
print(
    f"images for which the lowest energy and the greatest certainty choose the same view: {same_view:.1%}"
)

# %% [markdown]
# ## Combining features
#
# A classifier ends with a *head*, mostly one linear layer. Before it stand the features $z_g$ of a view.
# We may combine the features and let the head speak once. The wrapper finds the two parts by itself in the models of
# this library, of timm, and of torchvision.
#
# **Mean, sum, maximum.** $\operatorname{head}(\frac{1}{|G|}\sum_g z_g)$, and the same with $\sum$ or $\max$.
# Fine-tuned, the mean is known as *equitune* ([Basu et al., 2023](https://arxiv.org/abs/2210.06475)).

# %%
with torch.no_grad():
    feature_mean = Symmetrized(
        base, sixteen, "feature_mean", interpolation="bilinear"
    ).combine(features)
    feature_max = Symmetrized(
        base, sixteen, "feature_max", interpolation="bilinear"
    ).combine(features)
    linear_head = (feature_mean - mean_logits).abs().max()
print(
    f"behind a linear head the feature mean is the mean of logits: {linear_head < 1e-3}"
)

# %% [markdown]
# The other methods of this family have parameters of their own. Each starts as the mean and is then fine-tuned.
#
# - **Moments.** Mean, standard deviation and maximum of each feature over the views, mixed by a matrix.
# - **Learned mean.** $\sum_g w_g z_g$ with $w = \operatorname{softmax}_g s(z_g)$ and a small network $s$. The weights
#   are positive and add up to one. ([Basu et al., 2023](https://arxiv.org/abs/2305.09900): *λ-equitune*.)
# - **Learned attention.** A learned query $q$, called a *class token*, looks at the views: $a = \operatorname{softmax}_g \langle q, K z_g\rangle$.
#   Views carry no position, so it can tell them apart only by what they show.
# - **Orbit convolution.** $\sum_g \kappa(g\,h^{-1})\, z_g$, a circular convolution over the views, then a nonlinearity and a
#   mean over $h$.
# - **Bispectrum.** With $\hat s$ the Fourier transform of the features along the circle of views,
#   $\hat s(1)\,\hat s(k)\,\hat s(k{+}1)^*$ for all $k$ (the star is the complex conjugate). A turn multiplies each factor by a phase, and the phases cancel.
#   ([Kakarala, 2012](https://doi.org/10.1007/s10851-012-0330-6);
#   [Mataigne et al., 2024](https://arxiv.org/abs/2407.07655).)
#
# The last two are special. All methods before them ignore the *order* of the views, and so are invariant to more than
# turns: to every shuffle. Only cyclic shifts of the views come from a turn. The orbit convolution and the bispectrum are
# invariant to these alone and keep the rest.

# %%
generator = torch.Generator().manual_seed(0)
some = torch.randn(5, sixteen.order, features.shape[-1], generator=generator)
shuffle = torch.randperm(sixteen.order, generator=generator)
rows = []
for name in (
    "feature_mean",
    "moments",
    "learned_mean",
    "learned_attention",
    "orbit_convolution",
    "bispectrum",
):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        aggregate = AGGREGATES[name]
        aggregate = (
            aggregate(sixteen, some.shape[-1])
            if isinstance(aggregate, type)
            else aggregate
        )
        for parameter in getattr(aggregate, "parameters", list)():
            torch.nn.init.normal_(
                parameter, std=0.2
            )  # the parts that start at zero must not hide anything
    with torch.no_grad():
        shifted = (
            aggregate(some.roll(1, 1)) - aggregate(some)
        ).abs().max() / aggregate(some).abs().max()
        shuffled = (
            aggregate(some[:, shuffle]) - aggregate(some)
        ).abs().max() / aggregate(some).abs().max()
    rows.append(
        {
            "method": name.replace("_", " "),
            "blind to a turn": bool(shifted < 1e-4),
            "blind to any shuffle": bool(shuffled < 1e-4),
        }
    )
pd.DataFrame(rows).set_index("method")

# %% [markdown]
# ## One pose for all
#
# Instead of combining many answers we can ask for one, in a pose that does not depend on how the image came.
#
# - **Learned canonical pose.** A small network scores every view, and the model sees the best one only. The scores of a
#   turned image are the same scores, moved along. ([Kaba et al., 2023](https://arxiv.org/abs/2211.06489);
#   [Mondal et al., 2023](https://arxiv.org/abs/2310.01647).)
# - **Frame.** Mechanics instead of learning: the second moments of the image define an axis, and the view with that axis
#   in a fixed direction is taken. The axis has no sign, so two views remain, and their logits are averaged.
#   ([Puny et al., 2022](https://arxiv.org/abs/2110.03336).)
#
# They are cheap: one or two passes through the model instead of sixteen.

# %%
frame = Symmetrized(base, sixteen, "frame", interpolation="bilinear")
chosen = frame.aggregate(frame.views(images)) > 0
print(f"views in a frame, on average: {chosen.sum(1).double().mean():.2f}")

# %% [markdown]
# ## Exact, or not at all
#
# Theory promises invariance. We check it, in double precision, for every method, under quarter turns and under quarter
# turns with mirrors. All parameters of the aggregates are redrawn, so that nothing hides behind zeros.
#
# The last line is a **control**: one learned weight for each place in the list of views. A turn moves the views and
# leaves the weights behind. It must fail, and it does.

# %%
rows = []
for name in [*AGGREGATES, *CONTROLS]:
    row = {"method": name.replace("_", " ")}
    for group in (cyclic(4), dihedral(4)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Symmetrized(precise, group, name).double().eval()
            for parameter in (
                model.aggregate.parameters()
                if isinstance(model.aggregate, torch.nn.Module)
                else ()
            ):
                torch.nn.init.normal_(parameter, std=0.2)
        row[f"invariant under {group} (error below 1e-10)"] = (
            invariance_error(model, sample[:6], group) < 1e-10
        )
    rows.append(row)
exact = pd.DataFrame(rows).set_index("method")
assert exact.iloc[:-1].all(axis=None) and not exact.iloc[-1].any()
exact

# %% [markdown]
# ## Deeper: what is the same
#
# Some methods are closer than they look.
#
# **Mean of logits and product of probabilities choose the same class.** $\log p_g(c) = \ell_g(c) - \log\sum_k e^{\ell_g(k)}$,
# and the last term does not depend on $c$. The sums over views differ by a constant, so their largest entry is the same.
#
# **Most certain and maximum of each class choose the same class.** The largest probability of all, over views and
# classes, belongs to the surest view and wins in both. Only the confidence differs.
#
# **Sum and mean of features are the same behind a LayerNorm.** A LayerNorm divides by the size of its input, and the
# factor $|G|$ is gone. Without a LayerNorm they differ: the sum makes the logits larger.

# %%
print(
    f"mean of logits and product, same class: {torch.equal(mean_logits.argmax(-1), most_likely.argmax(-1))}"
)
print(
    f"most certain and maximum, same class: {torch.equal(most_certain.argmax(-1), class_maximum.argmax(-1))}"
)
norm = torch.nn.LayerNorm(features.shape[-1], eps=0.0)
with torch.no_grad():
    gap = (
        (
            norm(features.double().sum(1).float())
            - norm(features.double().mean(1).float())
        )
        .abs()
        .max()
    )
    plain = (base.head(features.sum(1)) - base.head(features.mean(1))).abs().max()
print(f"sum and mean behind a LayerNorm, same features: {gap < 1e-4}")
print(f"sum and mean before a linear head, largest difference of logits: {plain:.1f}")

# %% [markdown]
# How often do the other methods agree?

# %% mystnb={"figure": {"name": "fig-post-hoc-agreement", "caption": "How often two methods give a test image the same class, without fine-tuning, with 16 views. Mean of logits, product and feature mean agree on every image. The largest gap lies between one view and the rest; next comes the frame, which chooses its views by the shape of the digit and not by what the model makes of it."}, "image": {"alt": "A square table of percentages, bright where two methods always agree."}}
answers = {
    "mean logits": mean_logits,
    "most likely": most_likely,
    "feature mean": feature_mean,
    "mean probabilities": mean_probabilities,
    "entropy weighted": entropy_weighted,
    "vote": vote,
    "class maximum": class_maximum,
    "most certain": most_certain,
    "lowest energy": AGGREGATES["canonical_energy"](logits),
    "feature max": feature_max,
    "frame": predict(frame, test.images),
    "one view": logits[:, 0],
}
post_hoc.agreement(comparison.agreement(answers), list(answers))
# %% [markdown]
# ## A six, or a nine?
#
# A six turned by 180° can be a nine. An invariant classifier must give both the same answer, so one of them is wrong, unless
# something else in the image tells. For most sixes it does: all views say six. Below is the most doubtful of forty. Half of its views say
# six, the other half nine.
#
# The rules differ in what they make of it. Averaging probabilities admits the doubt.
# The product treats the views of one image as independent witnesses, and is sure of itself.

# %% mystnb={"figure": {"name": "fig-six-or-nine", "caption": "The most doubtful of forty sixes, and its views. Below each view, what the model makes of it. Right, what three rules make of all views together. The mean of probabilities stays closest to half and half; the product rule takes a side."}, "image": {"alt": "Eight turned copies of a six with bars for six and nine below each, and a bar chart that compares three rules."}}
sixes = as_float(upright.images[upright.labels == 6][:40])
with torch.no_grad():
    seen = Symmetrized(base, cyclic(8), interpolation="bilinear").view_logits(sixes)
    p = seen.softmax(-1)
    six, nine = p.mean(1)[:, 6], p.mean(1)[:, 9]
    doubtful = int(
        ((six - nine).abs() + 1 - six - nine).argmin()
    )  # the six that comes closest to half and half
    rules = {
        name: AGGREGATES[key](seen)[doubtful].softmax(-1).numpy()
        for name, key in (
            ("mean of probabilities", "mean_probabilities"),
            ("mean of logits", "mean_logits"),
            ("product", "most_likely"),
        )
    }
post_hoc.six_or_nine(
    orbit(cyclic(8), sixes[doubtful : doubtful + 1])[:, 0, 0].numpy(),
    p[doubtful].numpy(),
    rules,
)
# %% [markdown]
# ## Deeper: which view wins?
#
# Take upright digits, turn them by a known angle, and ask which view makes the model surest.
#
# A model that was trained on upright digits should be surest when the view undoes the turn: the wrapped model has become
# a detector of the pose, which nobody taught it. A model that was trained on all angles has no reason to prefer any.

# %% mystnb={"figure": {"name": "fig-winning-views", "caption": "How often each view is the surest, for upright digits turned by a known angle. The dashed ray is the view that undoes the turn. A model that saw upright digits alone prefers it, and the histogram turns with the image. A model that saw all angles has hardly a favorite."}, "image": {"alt": "Rows of circular histograms, one for each model; columns for turns of 0, 45, 90 and 202.5 degrees."}}
bases = comparison.available(["rotmnist_upright/vit", "rotmnist/vit"], mode)
titles = {
    "rotmnist_upright/vit": "trained upright",
    "rotmnist/vit": "trained on all angles",
}
some = as_float(upright.images[: 40 if mode == "quick" else 150])
turns = [0.0, 45.0, 90.0, 202.5]
winners = {
    titles[name]: np.stack(
        [
            comparison.winning_views(
                Symmetrized(trained.model, sixteen, interpolation="bilinear"),
                some,
                torch.tensor(turn),
            ).numpy()
            for turn in turns
        ]
    )
    for name, trained in bases.items()
}
post_hoc.winning_views(winners, turns, sixteen.order)
# %% [markdown]
# ## Deeper: what the class token looks at
#
# Learned attention gives every view a weight. Turn the image by one step of the group, and the weights must move along
# by one view. Otherwise the method would not be invariant.

# %% mystnb={"figure": {"name": "fig-attention-over-views", "caption": "The attention of the class token over the 16 views, one head, for one digit in eight turns. The view with the most weight in the first row is orange everywhere. It moves as the image turns: the token follows the digit, not the place in the list."}, "image": {"alt": "Eight rows, each with a turned digit and a bar chart of 16 weights; the pattern of bars shifts from row to row."}}
name = "post_hoc/rotated/head/learned_attention"
tuned = comparison.available([name], mode)
attentive = (
    tuned[name].model
    if tuned
    else Symmetrized(base, sixteen, "learned_attention", interpolation="bilinear")
)
attentive = attentive.eval()
steps = attentive.group.order
weights = []
hook = attentive.aggregate.normalize.register_forward_hook(
    lambda module, inputs, output: weights.append(output[0, 0])
)
eighth = [k * steps // min(8, steps) for k in range(min(8, steps))]
with torch.no_grad():
    turned = torch.cat([rotate(images[2:3], 360 * k / steps) for k in eighth])
    for image in turned:
        attentive(image[None])
hook.remove()
print("fine-tuned" if tuned else "not fine-tuned: there is no record yet")
post_hoc.attention_over_views(
    torch.stack(weights).numpy(),
    turned[:, 0].numpy(),
    [360 * k / steps for k in eighth],
)
# %% [markdown]
# ## Deeper: does it also help against shifts?
#
# The group of this chapter holds turns, no translations. Nothing is promised for a shifted image.
# A ViT cuts the image into patches on a fixed grid, so a shift by a pixel changes every token.

# %% mystnb={"figure": {"name": "fig-post-hoc-shifts", "caption": "How many test images change their class when they move to the right. Averaging over turns gives no guarantee against shifts; it only makes the answers steadier."}, "image": {"alt": "Two rising curves of the share of changed classes against the shift in pixels; the curve of the averaged model lies lower."}}
pixels = [1, 2, 3, 4]
few = images[: 30 if mode == "quick" else 100]
changed = {
    "one view": comparison.changed_by_shifts(base.eval(), few, pixels),
    "mean of 16 views": comparison.changed_by_shifts(averaging.eval(), few, pixels),
}
post_hoc.shifts(pixels, changed)
# %% [markdown]
# ## Deeper: is the confidence deserved?
#
# A classifier that says 90 % should be right nine times in ten. The rules that choose the same class can differ here.

# %% mystnb={"figure": {"name": "fig-post-hoc-calibration", "caption": "Accuracy against confidence on the test images above, in ten bins; large marks are bins with many images. Above the dotted line a method is too modest, below it too sure. Mean of logits and product choose the same classes and differ in how sure they claim to be."}, "image": {"alt": "Accuracy against confidence for four methods around a dotted diagonal."}}
shown = ("one view", "mean logits", "mean probabilities", "most likely")
curves = {name: comparison.reliability(answers[name], test.labels) for name in shown}
for name in shown:
    print(
        f"{name:20} calibration error {metrics.calibration_error(answers[name], test.labels):.2%}"
    )
post_hoc.reliability(curves)
# %% [markdown]
# ## The comparison
#
# Now all methods under the same rules. Within a setting and a regime, every method starts from the same checkpoint, sees the same
# views, has the same number of epochs and chooses among the same three learning rates, on the validation images alone.
# There are three regimes:
#
# - **no fine-tuning**: the model as it was trained,
# - **last layer**: the head and the aggregate are trained, the features stay. Three runs with three seeds; the table gives
#   their mean.
# - **every weight**: it costs sixteen times an ordinary run, so a few methods stand for all, once each, where the base
#   model is small.
#
# And there are four settings: *rotated* digits, *upright* ones, a *tenth* of the rotated ones, and *aerial* scenes. In *upright*,
# *training and fine-tuning* see upright digits only: a model that was
# fine-tuned on rotated digits would no longer answer the question.
#
# Methods are compared with plain test-time augmentation (the mean of logits without fine-tuning) on the same images.
# McNemar's test looks at the images that only one of the two gets right. A small p-value says: not by luck. Counts and p-values
# are those of the first seed. The calibration error is the mean gap between how sure a method is and how often it is right.

# %%
if mode == "quick":
    names = [
        f"post_hoc/{setting}/{regime}/{method}"
        for setting, regime, method in (
            ("rotated", "none", "mean_logits"),
            ("rotated", "none", "most_certain"),
            ("rotated", "none", "frame"),
            ("rotated", "head", "learned_mean"),
            ("upright", "head", "index_weighted"),
            ("upright", "none", "mean_logits"),
            ("upright", "none", "most_certain"),
        )
    ]
    found = [run(name, "quick").record for name in names]
    tables = {
        setting: comparison.table(
            setting, [r for r in found if f"/{setting}/" in r["experiment"]]
        )
        for setting in ("rotated", "upright")
    }
elif mode == "train":
    tables = {
        setting: comparison.table(setting, comparison.trained(setting))
        for setting in SETTINGS
    }
else:
    tables = {setting: comparison.table(setting) for setting in SETTINGS}
tables = {setting: frame for setting, frame in tables.items() if len(frame)}
for setting, frame in tables.items():
    print(
        f"{setting}: {SETTINGS[setting]}; {len(frame)} rows, {frame['images'].iloc[0]:,} test images"
    )
missing = [SETTINGS[setting] for setting in SETTINGS if setting not in tables]
print(
    "no records yet: " + "; ".join(missing) if missing else "all settings have records"
)

# %% mystnb={"figure": {"name": "fig-post-hoc-accuracies", "caption": "Test accuracy of every method that has a record, with 95 % intervals. Compare marks of one kind within one panel: they differ in the method alone. The panels differ in data and base model and must not be compared with each other."}, "image": {"alt": "A dot plot with one row for each method and one panel for each setting; three kinds of marks for the three regimes."}}
post_hoc.accuracies(tables, REGIMES)
# %% [markdown]
# The same in numbers, one table for each setting. First the base models, on the whole test set with a single view.
# The comparison looks at the first test images only, as many as the lines above say. Its first row is the base model on
# these.

# %%
comparison.base_table([setting for setting in tables], mode)

# %%
comparison.percent_table(tables["rotated"]) if "rotated" in tables else "no records yet"

# %%
comparison.percent_table(tables["upright"]) if "upright" in tables else "no records yet"

# %%
comparison.percent_table(tables["tenth"]) if "tenth" in tables else "no records yet"

# %%
comparison.percent_table(tables["aerial"]) if "aerial" in tables else "no records yet"

# %% [markdown]
# The aerial scenes of the fourth setting are RSSCN7 (Zou et al., IEEE GRSL, 2015), reduced to 64×64 pixels.
# They have no upright, so mirrors are allowed too: the group is $D_4$ with its 8 exact views. The pictures come without
# a license, so neither they nor weights that were trained on them are part of this repository, only the numbers.
# Every scene was shown as it came, and yet one view is not enough: eight views, averaged, gain several points. What training the
# last layer adds to that lies within the intervals, for 840 test images are few.
#
# ### Which one to take?
#
# The one that the validation images prefer, first seeds alone. The test images only say how good the choice was.

# %%
comparison.chosen(list(tables), found if mode == "quick" else None)

# %% [markdown]
# A base model that has seen all angles leaves little to gain beyond the mean: all of its views are about equally good.
# A base model that has only seen upright digits is another matter. Most of its views are wrong, and training the last layer on
# all views gains much. The orbit convolution, which sees the order of the views, gains most there.
#
# What the validation images can't see, they can't warn of. In the setting *upright* they are upright, too. Look at the
# control, which ties its weights to the place in the list of views:

# %%
comparison.controls(list(tables), found if mode == "quick" else None)

# %% [markdown]
# On upright images it can learn that the first view is the best one, and looks nearly as good as the best. On turned images the best
# view stands elsewhere. Only the proof of invariance, or a test on turned images, tells the two apart.
#
# ### Deeper: a number that differs from elsewhere
#
# For the second setting, numbers circulate that are far lower than ours. We know one reason. The files of the official
# rotated MNIST hold each image *column by column*. Read row by row, every digit is mirrored.
# A model trained on proper upright digits then meets mirrored digits in the test, and no rotation undoes a mirror.

# %%
mirrored = []
for name, trained in comparison.available(["rotmnist_upright/vit"], mode).items():
    for method in ("mean_logits", "most_certain"):
        wrapped = Symmetrized(trained.model, sixteen, method, interpolation="bilinear")
        for reading, pictures in (
            ("as they are", test.images),
            ("read transposed", test.images.mT.contiguous()),
        ):
            right = predict(wrapped, pictures).argmax(-1) == test.labels
            mirrored.append(
                {
                    "method": method.replace("_", " "),
                    "test digits": reading,
                    "accuracy (%)": f"{100 * right.double().mean():.1f}",
                }
            )
pd.DataFrame(mirrored).pivot(
    index="method", columns="test digits", values="accuracy (%)"
) if mirrored else "no record yet"

# %% [markdown]
# ## What it costs
#
# Sixteen views cost sixteen passes. The wrapper adds next to nothing: the combination itself is cheap.
# The frame and the learned canonical pose are the exception: they choose first and then look once or twice.

# %% mystnb={"figure": {"name": "fig-post-hoc-cost", "caption": "Accuracy against the time for one image on one processor core, for the digits of the first setting. Times were measured once, apart from this page, by the script in the folder benchmarks. Methods that combine all views stand in one column; what tells them apart is the accuracy."}, "image": {"alt": "A scatter plot: a column of points at the cost of sixteen passes, few points far left at the cost of one or two."}}
measured = comparison.costs().get("milliseconds", {}).get("digits, C16", {})
measured = measured | {"one_view": measured["base"]} if measured else {}
priced = (
    tables["rotated"]
    .assign(milliseconds=tables["rotated"]["method"].map(measured))
    .dropna(subset="milliseconds")
    if "rotated" in tables
    else pd.DataFrame()
)
if len(priced):
    post_hoc.cost_against_accuracy(priced, REGIMES)
else:
    print("no measured costs or no records yet")

# %% [markdown]
# ## Any classifier
#
# Nothing above is special to our ViT. A model of torchvision or timm is wrapped in the same line, untouched.
# Here is a small ResNet with random weights. Its features and head are found by themselves.

# %%
with torch.random.fork_rng():
    torch.manual_seed(0)
    resnet = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).eval().double()
    color = torch.rand(2, 3, 32, 32, dtype=torch.float64)
invariant = Symmetrized(resnet, dihedral(4), "learned_attention").double().eval()
error = invariance_error(resnet, color, dihedral(4))
print(
    f"ResNet: {error:.0e}; symmetrized: below 1e-10: {invariance_error(invariant, color, dihedral(4)) < 1e-10}"
)

# %% [markdown]
# ## What to remember
#
# - Averaging over the group makes any model invariant. For quarter turns and mirrors the guarantee is exact.
# - The mean of logits is the method to beat where all views are good. Without fine-tuning the product rule chooses the
#   same classes and is too sure of them. Where few views are good, train the last layer on all of them.
# - A weight that belongs to a *place* in the list of views breaks the guarantee. A weight that belongs to what a view
#   *shows* keeps it.
# - Invariance cannot tell a six from a nine. Choose the group that your labels respect.
# - The price is one pass for each view, unless a pose is chosen before the model looks.
