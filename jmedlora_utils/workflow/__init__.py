"""Steps of a preset for Snakemake, export and model cards. May import every room but book."""
