"""A package of its own and no namespace: opacus installs one of this name, which would take its place."""
