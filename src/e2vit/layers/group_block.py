"""The transformer block of the group attention networks: attention, then an MLP, on maps with a pose axis.

    x + crop(dropout(swish(norm(attention(swish(norm(x)))))))    then    x + norm(linear(swish(norm(linear(x)))))

Source: Romero and Cordonnier (2021), the public code.
"""

from jaxtyping import Float
from torch import Tensor, nn

from e2vit.layers.attention import Pointwise


class GroupBlock(nn.Module):
    """crop: pixels cut from each border after the attention. Its normalization still sees them."""

    def __init__(self, attention: nn.Module, channels: int, out_channels: int, crop: int, dropout: float, eps: float):
        super().__init__()
        self.crop = crop
        self.attention_norm = nn.GroupNorm(1, channels, eps)
        self.attention = attention
        self.out_norm = nn.GroupNorm(1, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = Pointwise(channels, out_channels) if channels != out_channels else nn.Identity()
        self.mlp = nn.Sequential(
            Pointwise(out_channels, out_channels // 2),
            nn.GroupNorm(1, out_channels // 2, eps),
            nn.SiLU(),
            Pointwise(out_channels // 2, out_channels),
            nn.GroupNorm(1, out_channels, eps),
        )

    def forward(
        self, x: Float[Tensor, "batch channel element height width"]
    ) -> Float[Tensor, "batch out_channel element cropped_height cropped_width"]:
        attended = self.attention(nn.functional.silu(self.attention_norm(x)))
        attended = self.dropout(nn.functional.silu(self.out_norm(attended)))
        x = self._cropped(attended) + self.shortcut(self._cropped(x))
        return x + self.mlp(x)

    def _cropped(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return x[..., self.crop : height - self.crop, self.crop : width - self.crop]
