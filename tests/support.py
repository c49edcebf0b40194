"""What many tests need."""

from beartype import BeartypeConf, beartype

from e2vit.testing import randomized

__all__ = ["randomized", "typechecker"]

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int serves where a float is asked for
