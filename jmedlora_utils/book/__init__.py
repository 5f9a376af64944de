"""The Jupyter Book: build, generated parts of prose pages, Sphinx extension, explorer. May import every room."""
