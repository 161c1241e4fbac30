"""How good raters' work is: figures with intervals, and tests that say when it is not. Pure functions of arrays."""
