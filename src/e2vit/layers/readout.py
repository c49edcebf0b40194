"""Invariant readouts: what remains of a function on the poses when the pose itself must not matter."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup, cyclic

READOUTS = ("mean_max", "mean", "bispectrum")


class PoseReadout(nn.Module):
    """From features at every pose to features that do not change when the poses are permuted by the group.

    mean_max:   mean and maximum over the poses; forgets how the poses are related.
    mean:       the mean alone.
    bispectrum: B(j, k) = F(j) F(k) F(j+k)* with F the Fourier transform over the poses; invariant to turns and to
                nothing else, so it tells apart what permutations would confuse. C_n only. Each product is replaced by
                its cube root in size, so that it grows like the features.
    Source of the bispectrum: Kakarala (2012); Sanborn et al. (2023).
    """

    def __init__(self, group: FiniteGroup, mode: str = "mean_max"):
        super().__init__()
        if mode not in READOUTS:
            raise ValueError(f"readout is one of {', '.join(READOUTS)}, not {mode!r}")
        self.mode, self.copies = mode, {"mean_max": 2, "mean": 1}.get(mode, 0)
        if mode == "bispectrum":
            if group != cyclic(group.order):
                raise ValueError(f"the bispectrum is made for the groups C_n, not for {group}")
            n = group.order
            pairs = torch.tensor([(j, k) for j in range(n // 2 + 1) for k in range(j, n // 2 + 1)])
            angle = torch.outer(torch.arange(n), torch.arange(n)).remainder(n).double() * (2 * torch.pi / n)
            self.register_buffer("pairs", pairs, persistent=False)
            self.register_buffer("cosines", angle.cos() / n, persistent=False)
            self.register_buffer("sines", angle.sin() / n, persistent=False)
            self.copies = 2 * len(pairs)

    def forward(self, x: Float[Tensor, "batch pose d"]) -> Float[Tensor, "batch copies_d"]:
        if self.mode == "mean":
            return x.mean(1)
        if self.mode == "mean_max":
            return torch.cat([x.mean(1), x.amax(1)], -1)
        return self._bispectrum(x)

    def _bispectrum(self, x: Tensor) -> Tensor:
        """In real arithmetic, which every exporter and every device knows."""
        real, imaginary = self.cosines.to(x.dtype) @ x, -self.sines.to(x.dtype) @ x  # batch frequency d
        j, k = self.pairs.unbind(1)
        both = (j + k) % x.shape[1]
        a = real[:, j] * real[:, k] - imaginary[:, j] * imaginary[:, k]
        b = real[:, j] * imaginary[:, k] + imaginary[:, j] * real[:, k]
        products = torch.cat(
            [a * real[:, both] + b * imaginary[:, both], b * real[:, both] - a * imaginary[:, both]], 1
        )
        return (products / (products.square() + 1e-6) ** (1 / 3)).flatten(1)  # smooth where a product is zero
