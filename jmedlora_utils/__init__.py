"""jmedlora: an executable reproduction of JMedLoRA. Importing it needs neither torch nor a GPU."""

__version__ = "0.1.0"
