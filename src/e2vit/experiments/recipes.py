"""Groups, models and training configurations that several experiments share."""

from dataclasses import replace

from e2vit.groups import cyclic, dihedral
from e2vit.models import GCNNConfig, HybridViTConfig, ViTConfig
from e2vit.training.config import TrainConfig

C1, C4, C8, C16, D4 = cyclic(1), cyclic(4), cyclic(8), cyclic(16), dihedral(4)

# All 12,000 training images and the last epoch: nothing is chosen on the way, so nothing can be chosen wrongly.
FINAL = TrainConfig(epochs=50, learning_rate=2e-3, batch_size=64, average=0.999, keep="last")
UPRIGHT = replace(FINAL, augment="none")
MUON = TrainConfig(epochs=80, learning_rate=3e-3, batch_size=64, average=0.999, optimizer="muon")
# As the official networks are trained: a constant rate, neither augmentation nor an average of the weights.
OFFICIAL = TrainConfig(
    epochs=12,
    batch_size=32,
    learning_rate=1e-3,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=1e-4,
    optimizer="adam",
    augment="none",
    clip=None,
)
VIT = ViTConfig(initial_position="sinusoidal", token_dropout=0.3)
SMALL_VIT = ViTConfig(width=64, depth=4)
HYBRID = HybridViTConfig(group=C4, stem=(8, 24, 32), width=32, heads=2, attention="within_pose")
PLAIN_TWIN = replace(HYBRID, group=C1, stem=(14, 44, 58), width=58)  # one pose, as many parameters
GCNN = GCNNConfig.modern(widths=(8, 24, 32, 32))
P4CNN, Z2CNN = GCNNConfig.p4cnn(), GCNNConfig.z2cnn()
