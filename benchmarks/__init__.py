"""Side-by-side measurements; a package of its own, since one of this name may be installed."""
