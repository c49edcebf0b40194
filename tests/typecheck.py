"""The checker of jaxtyping's annotations, under test only; it may not import the package that it checks."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int serves where a float is asked for
