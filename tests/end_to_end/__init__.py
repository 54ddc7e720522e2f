"""A package, so that pytest's package scope ends here: its fixtures' engines end with it."""
