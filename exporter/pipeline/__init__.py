"""The jobs: export, build, validate and split, each from its steps to a bundle."""
