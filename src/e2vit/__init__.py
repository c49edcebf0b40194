"""E(2)-equivariant vision transformers."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Import on first use: ``import e2vit`` alone loads no torch."""
    if name in ("load", "from_pretrained", "save_pretrained"):
        from e2vit import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module 'e2vit' has no attribute {name!r}")
